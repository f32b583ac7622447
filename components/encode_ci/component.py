"""encode-ci as a Kubeflow component."""

from typing import NamedTuple

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def encode_ci(
    config: str,
    data: dsl.Input[dsl.Dataset],
    data_id: str,
    teacher_embeddings: dsl.Input[dsl.Dataset],
    teacher_embeddings_id: str,
    quantizer: dsl.Input[dsl.Model],
    quantizer_id: str,
    codebook_indexes: dsl.Output[dsl.Dataset],
    rank: int = 0,
    world_size: int = 1,
) -> NamedTuple("Outputs", artifact_id=str):
    """Run teacher and quantizer over the training cuts: codebook indexes (CI), a few bytes a frame.

    Args:
        config: section encode-ci as JSON.
        data: cut-manifest.
        data_id: its content id.
        teacher_embeddings: teacher-embeddings.
        teacher_embeddings_id: its content id.
        quantizer: quantizer.
        quantizer_id: its content id.
        rank: number of this part, 0-based.
        world_size: how many parts share the work.
        codebook_indexes: the codebook-indexes, or this part of it, that is written.

    Returns:
        artifact_id: its content id.
    """
    from mvqkd.adapters.kubeflow import run_stage

    artifact = run_stage(
        "encode-ci",
        config,
        inputs={
            "data": (data, data_id),
            "teacher_embeddings": (teacher_embeddings, teacher_embeddings_id),
            "quantizer": (quantizer, quantizer_id),
        },
        extra={"rank": rank, "world_size": world_size},
        output=codebook_indexes,
    )
    return (artifact.id,)
