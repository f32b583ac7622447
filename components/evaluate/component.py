"""evaluate as a Kubeflow component."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    config: str,
    data: dsl.Input[dsl.Dataset],
    student: dsl.Input[dsl.Model],
    wer_report: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    teacher_embeddings: dsl.Input[dsl.Dataset] = None,
) -> None:
    """Decode the test split with the student and count word errors.

    Args:
        config: section evaluate as JSON.
        data: cut-manifest.
        student: student-checkpoint.
        teacher_embeddings: teacher-embeddings, where the stage needs it.
        wer_report: the wer-report that is written.
        metrics: its figures.
    """
    from pathlib import Path

    from mvqkd.config import EvaluateConfig, section_from_json
    from mvqkd.decode.evaluate import evaluate

    artifact = evaluate(
        section_from_json(EvaluateConfig, config),
        data=Path(data.path),
        student=Path(student.path),
        teacher_embeddings=Path(teacher_embeddings.path) if teacher_embeddings else None,
        out=Path(wer_report.path),
    )
    wer_report.metadata.update(artifact.metadata)
    for name, value in artifact.scalar_figures.items():
        metrics.log_metric(name, value)
