"""evaluate as a Kubeflow component."""

from typing import NamedTuple

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    config: str,
    data: dsl.Input[dsl.Dataset],
    data_id: str,
    student: dsl.Input[dsl.Model],
    student_id: str,
    wer_report: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    teacher_embeddings: dsl.Input[dsl.Dataset] = None,
    teacher_embeddings_id: str = "",
    split: str = "",
) -> NamedTuple("Outputs", artifact_id=str):
    """Decode the test split with the student and count word errors.

    Args:
        config: section evaluate as JSON.
        data: cut-manifest.
        data_id: its content id.
        student: student-checkpoint.
        student_id: its content id.
        teacher_embeddings: teacher-embeddings, where the stage needs it.
        teacher_embeddings_id: its content id.
        split: the split to decode; empty: the section's.
        wer_report: the wer-report that is written.
        metrics: its figures.

    Returns:
        artifact_id: its content id.
    """
    from mvqkd.adapters.kubeflow import run_stage

    artifact = run_stage(
        "evaluate",
        config,
        inputs={
            "data": (data, data_id),
            "student": (student, student_id),
            "teacher_embeddings": (teacher_embeddings, teacher_embeddings_id),
        },
        changes={"split": split},
        output=wer_report,
        metrics=metrics,
    )
    return (artifact.id,)
