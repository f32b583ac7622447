"""fit-quantizer as a Kubeflow component."""

from typing import NamedTuple

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fit_quantizer(
    config: str,
    teacher_embeddings: dsl.Input[dsl.Dataset],
    teacher_embeddings_id: str,
    quantizer: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> NamedTuple("Outputs", artifact_id=str):
    """Fit the multi-codebook quantizer to those embeddings.

    Args:
        config: section fit-quantizer as JSON.
        teacher_embeddings: teacher-embeddings.
        teacher_embeddings_id: its content id.
        quantizer: the quantizer that is written.
        metrics: its figures.

    Returns:
        artifact_id: its content id.
    """
    from mvqkd.adapters.kubeflow import run_stage

    inputs = {"teacher_embeddings": (teacher_embeddings, teacher_embeddings_id)}
    artifact = run_stage("fit-quantizer", config, inputs=inputs, output=quantizer, metrics=metrics)
    return (artifact.id,)
