"""The join of the parts of encode-ci as a Kubeflow component."""

from typing import NamedTuple

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def merge_ci(
    parts: dsl.Input[list[dsl.Dataset]],
    part_ids: list[str],
    codebook_indexes: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> NamedTuple("Outputs", artifact_id=str):
    """Join the parts that several ranks of encode-ci have written: the bytes of a single process.

    Args:
        parts: codebook-indexes, one part a rank.
        part_ids: their content ids.
        codebook_indexes: the codebook-indexes that is written.
        metrics: its figures.

    Returns:
        artifact_id: its content id.
    """
    from mvqkd.adapters.kubeflow import run_merge

    artifact = run_merge(parts, part_ids, output=codebook_indexes, metrics=metrics)
    return (artifact.id,)
