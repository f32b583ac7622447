"""extract-teacher as a Kubeflow component."""

from typing import NamedTuple

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def extract_teacher(
    config: str,
    data: dsl.Input[dsl.Dataset],
    data_id: str,
    teacher_embeddings: dsl.Output[dsl.Dataset],
) -> NamedTuple("Outputs", artifact_id=str):
    """Sample frames of the teacher's embeddings to fit a quantizer on.

    Args:
        config: section extract-teacher as JSON.
        data: cut-manifest.
        data_id: its content id.
        teacher_embeddings: the teacher-embeddings that is written.

    Returns:
        artifact_id: its content id.
    """
    from mvqkd.adapters.kubeflow import run_stage

    artifact = run_stage("extract-teacher", config, inputs={"data": (data, data_id)}, output=teacher_embeddings)
    return (artifact.id,)
