"""A pipeline small enough to compile in a moment, with all that the commands of `mvqkd pipeline` look at."""

# No "from __future__ import annotations" here: kfp reads annotations as types, not as text.

import tempfile
from pathlib import Path

from kfp import compiler, dsl, kubernetes

from pipelines.package import Package, package_from_text

IMAGE = "registry.example/mvqkd@sha256:" + "0" * 64


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def prepare(config: str, data: dsl.Output[dsl.Dataset]) -> str:
    """Make data."""
    return config


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def encode(rank: int, data: dsl.Input[dsl.Dataset], codes: dsl.Output[dsl.Dataset]) -> None:
    """Encode a part of it."""
    print(rank)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def promote(config: str) -> None:
    """Tell the registry."""
    print(config)


def small_text(*, memory: str = "1Gi", retries: int = 3, caching: bool = True, extra_step: bool = False) -> str:
    """The compiled pipeline; what may be changed is what a diff is to show."""

    @dsl.pipeline(name="mvqkd-distill", description="A small one.")
    def distill(
        prepare_data_config: str = "{}",
        gate_config: str = "{}",
        launch_config: str = "{}",
        num_shards: int = 2,
        share: float = 0.5,
        dry: bool = False,
        splits: list[str] = ["test"],  # noqa: B006 - the compiler reads it, nothing calls it
        labels: dict[str, str] = {},  # noqa: B006 - likewise
    ) -> None:
        prepared = prepare(config=prepare_data_config).set_memory_limit(memory).set_caching_options(caching)
        kubernetes.add_toleration(prepared, key="spot", operator="Exists")
        with dsl.ParallelFor([0, 1], name="shards") as rank:
            part = encode(rank=rank, data=prepared.outputs["data"])
            part.set_retry(retries, backoff_duration="10s")
        if extra_step:
            promote(config=gate_config).set_display_name("announce").after(part)
        with dsl.If(prepared.outputs["Output"] != "", name="worth-it"):
            promote(config=gate_config).set_caching_options(False)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "small.yaml"
        compiler.Compiler().compile(distill, str(file))
        return file.read_text(encoding="utf-8")


def small_package(*, memory: str = "1Gi", retries: int = 3, caching: bool = True, extra_step: bool = False) -> Package:
    """The same, read."""
    text = small_text(memory=memory, retries=retries, caching=caching, extra_step=extra_step)
    return package_from_text(text, "small")
