# Images of mvqkd, one a target; docs/containers.md says how to build and run them, and how large they are.
#
#   cpu    every stage, on the CPU
#   cuda   the same with the CUDA build of torch
#   serve  `mvqkd serve` and `mvqkd transcribe`: no torch
#
#   podman build --format docker --target serve -t mvqkd:0.1.0-serve --build-arg REVISION="$(git rev-parse HEAD)" .
#
# The base has bash and Python 3.11 or 3.12 with venv.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# Wheels that the index lacks, or all of them where it cannot be reached: --build-context wheels=FOLDER puts a folder in
# the place of this empty one, and PIP_ARGS tells pip: --find-links=/wheels, --no-index.
FROM scratch AS wheels

FROM ${BASE_IMAGE} AS builder
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /build
# pip has an environment of its own, so that the images have none.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/mvqkd
ENV PATH=/opt/pip/bin:$PATH \
    PIP_BUILD_CONSTRAINT=/build/constraints.txt \
    PIP_CONSTRAINT=/build/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_PYTHON=/opt/mvqkd/bin/python3
# Options for pip, split at spaces; the stages below inherit them.
ARG PIP_ARGS=""
ENV PIP_ARGS=${PIP_ARGS}
COPY constraints.txt constraints-torch.txt ./

# Dependencies are layers of their own, since they change rarely: a package of nothing stands in for the code, and
# settings of tools, which follow the project's table, do not count.
FROM builder AS needs
COPY pyproject.toml ./
RUN sed -i '/^\[tool\./,$d' pyproject.toml \
    && mkdir -p src/mvqkd && touch README.md LICENSE

FROM builder AS pipeline-packages
COPY --from=needs /build ./
# torch alone and first, so that nothing else decides which build comes; TORCH=torch==2.11.0 names another one.
ARG TORCH=""
# hadolint ignore=DL3013,SC2086
RUN --mount=type=bind,from=wheels,target=/wheels \
    pip install ${PIP_ARGS} "${TORCH:-$(grep '^torch==' constraints-torch.txt)}"
# hadolint ignore=DL3013,SC2086
RUN --mount=type=bind,from=wheels,target=/wheels \
    pip install ${PIP_ARGS} '.[pipeline,teacher,registry,kfp,serve]' && pip uninstall --yes mvqkd

FROM builder AS serve-packages
COPY --from=needs /build ./
# hadolint ignore=DL3013,SC2086
RUN --mount=type=bind,from=wheels,target=/wheels \
    pip install ${PIP_ARGS} '.[serve,follow]' && pip uninstall --yes mvqkd

# The code, as files to lay over either environment: a new commit changes one small layer of an image.
FROM builder AS code
COPY pyproject.toml README.md LICENSE ./
COPY src src
# hadolint ignore=DL3013,SC2086
RUN --mount=type=bind,from=wheels,target=/wheels \
    pip install ${PIP_ARGS} --no-deps --root=/overlay .

# What all images have in common. No pip, no compiler, no source tree: root owns the code, another user runs it, and
# only /data (a volume) and /tmp are written to, so that the root file system may be read-only.
FROM ${BASE_IMAGE} AS common
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN groupadd --gid 10001 mvqkd \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin mvqkd \
    && install -d -o 10001 -g 10001 /data
ENV PATH=/opt/mvqkd/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/data \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/matplotlib \
    NUMBA_CACHE_DIR=/tmp/numba
LABEL org.opencontainers.image.title="mvqkd" \
      org.opencontainers.image.description="Distil a speech teacher into a small ONNX student by predicting codebook indexes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
WORKDIR /data
ENTRYPOINT ["mvqkd"]

# REVISION comes last in each image, for what follows it is built anew. MVQKD_GIT_SHA is what artifacts record, there
# being no checkout in here.
FROM common AS serve
COPY --from=serve-packages /opt/mvqkd /opt/mvqkd
COPY --from=code /overlay /
USER 10001:10001
EXPOSE 8470
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8470/healthz', timeout=4)"]
CMD ["serve", "--host", "0.0.0.0", "--bundle", "/data/bundle"]
ARG REVISION=unknown
LABEL org.opencontainers.image.revision="${REVISION}"
ENV MVQKD_GIT_SHA=${REVISION}

FROM common AS cuda
COPY --from=pipeline-packages /opt/mvqkd /opt/mvqkd
RUN python3 -c "import torch; assert torch.version.cuda, 'torch without CUDA: take it from the plain package index'"
COPY --from=code /overlay /
USER 10001:10001
CMD ["--help"]
# What NVIDIA's container runtime lends to the container.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
ARG REVISION=unknown
LABEL org.opencontainers.image.revision="${REVISION}"
ENV MVQKD_GIT_SHA=${REVISION}

# Last, so that it is also what a build without a target gives.
FROM common AS cpu
COPY --from=pipeline-packages /opt/mvqkd /opt/mvqkd
RUN python3 -c "import torch; assert not torch.version.cuda, 'torch with CUDA: see CPU wheels in docs/containers.md'"
COPY --from=code /overlay /
USER 10001:10001
CMD ["--help"]
ARG REVISION=unknown
LABEL org.opencontainers.image.revision="${REVISION}"
ENV MVQKD_GIT_SHA=${REVISION}
