# The image that Kubeflow components and training pods run in: the library with its pinned dependencies, nothing else.
#
#   podman build --target cpu --build-arg REVISION="$(git rev-parse HEAD)" -t mvqkd:0.1.0 .
#
# The plain package index gives torch with CUDA. For a small CPU image pass an index of CPU wheels in PIP_ARGS, or a
# folder of wheels: podman build -v "$PWD/wheels:/wheels:ro" --build-arg PIP_ARGS=--find-links=/wheels ...
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS builder
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ARG PIP_ARGS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python3 -m venv /opt/mvqkd

# Dependencies in layers of their own: they change rarely, the code often. A package of no modules stands in for it.
COPY constraints.txt constraints-torch.txt ./
# PIP_ARGS is a list of options: it must be split into words.
# hadolint ignore=SC2086
RUN /opt/mvqkd/bin/pip install ${PIP_ARGS} -c constraints.txt "$(grep '^torch==' constraints-torch.txt)"
COPY pyproject.toml README.md LICENSE ./
# hadolint ignore=SC2086
RUN mkdir -p src/mvqkd \
    && /opt/mvqkd/bin/pip install ${PIP_ARGS} -c constraints.txt '.[pipeline,kfp,registry]' \
    && /opt/mvqkd/bin/pip uninstall --yes mvqkd

COPY src src
# hadolint ignore=SC2086
RUN /opt/mvqkd/bin/pip install ${PIP_ARGS} --no-deps . \
    && /opt/mvqkd/bin/mvqkd --help > /dev/null

# No compiler, no pip cache, no source tree; root owns the code and an unprivileged user runs it.
FROM ${BASE_IMAGE} AS cpu
ARG REVISION=unknown
LABEL org.opencontainers.image.title="mvqkd" \
      org.opencontainers.image.description="Distil a speech teacher into a small ONNX student by predicting codebook indexes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 mvqkd \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /work --shell /usr/sbin/nologin mvqkd \
    && install -d -o 10001 -g 10001 /work
COPY --from=builder /opt/mvqkd /opt/mvqkd
# Runs with a read-only root file system: only /work (a volume) and /tmp are written to. REVISION is what artifacts
# record as their git SHA, there being no checkout here.
ENV PATH=/opt/mvqkd/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/work \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/matplotlib \
    NUMBA_CACHE_DIR=/tmp/numba \
    MVQKD_GIT_SHA=${REVISION}
WORKDIR /work
USER 10001:10001
ENTRYPOINT ["mvqkd"]
CMD ["--help"]
