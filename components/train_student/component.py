"""train-student as a Kubeflow component."""

from typing import NamedTuple

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_student(
    config: str,
    launch: str,
    data: dsl.Input[dsl.Dataset],
    data_id: str,
    student: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    codebook_indexes: dsl.Input[dsl.Dataset] = None,
    codebook_indexes_id: str = "",
    quantizer: dsl.Input[dsl.Model] = None,
    quantizer_id: str = "",
    teacher_embeddings: dsl.Input[dsl.Dataset] = None,
    teacher_embeddings_id: str = "",
) -> NamedTuple("Outputs", artifact_id=str):
    """Train the student to transcribe and to predict the indexes.

    Args:
        config: section train-student as JSON.
        launch: section launch as JSON: in this pod, in several processes of it, or as a TrainJob of several nodes.
        data: cut-manifest.
        data_id: its content id.
        codebook_indexes: codebook-indexes, where the stage needs it.
        codebook_indexes_id: its content id.
        quantizer: quantizer, where the stage needs it.
        quantizer_id: its content id.
        teacher_embeddings: teacher-embeddings, where the stage needs it.
        teacher_embeddings_id: its content id.
        student: the student-checkpoint that is written.
        metrics: its figures.

    Returns:
        artifact_id: its content id.
    """
    from mvqkd.adapters.kubeflow import run_training

    artifact = run_training(
        config,
        launch,
        inputs={
            "data": (data, data_id),
            "codebook_indexes": (codebook_indexes, codebook_indexes_id),
            "quantizer": (quantizer, quantizer_id),
            "teacher_embeddings": (teacher_embeddings, teacher_embeddings_id),
        },
        output=student,
        metrics=metrics,
    )
    return (artifact.id,)
