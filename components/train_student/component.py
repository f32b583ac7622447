"""train-student as a Kubeflow component."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_student(
    config: str,
    data: dsl.Input[dsl.Dataset],
    student: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    codebook_indexes: dsl.Input[dsl.Dataset] = None,
    quantizer: dsl.Input[dsl.Model] = None,
    teacher_embeddings: dsl.Input[dsl.Dataset] = None,
) -> None:
    """Train the student to transcribe and to predict the indexes.

    Args:
        config: section train-student as JSON.
        data: cut-manifest.
        codebook_indexes: codebook-indexes, where the stage needs it.
        quantizer: quantizer, where the stage needs it.
        teacher_embeddings: teacher-embeddings, where the stage needs it.
        student: the student-checkpoint that is written.
        metrics: its figures.
    """
    from pathlib import Path

    from mvqkd.config import TrainStudentConfig, section_from_json
    from mvqkd.train.stage import train_student

    artifact = train_student(
        section_from_json(TrainStudentConfig, config),
        data=Path(data.path),
        codebook_indexes=Path(codebook_indexes.path) if codebook_indexes else None,
        quantizer=Path(quantizer.path) if quantizer else None,
        teacher_embeddings=Path(teacher_embeddings.path) if teacher_embeddings else None,
        out=Path(student.path),
    )
    student.metadata.update(artifact.metadata)
    for name, value in artifact.scalar_figures.items():
        metrics.log_metric(name, value)
