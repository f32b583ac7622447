"""extract-teacher as a Kubeflow component."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def extract_teacher(
    config: str,
    data: dsl.Input[dsl.Dataset],
    teacher_embeddings: dsl.Output[dsl.Dataset],
) -> None:
    """Sample frames of the teacher's embeddings to fit a quantizer on.

    Args:
        config: section extract-teacher as JSON.
        data: cut-manifest.
        teacher_embeddings: the teacher-embeddings that is written.
    """
    from pathlib import Path

    from mvqkd.config import ExtractTeacherConfig, section_from_json
    from mvqkd.teacher.extract import extract_teacher

    artifact = extract_teacher(
        section_from_json(ExtractTeacherConfig, config),
        data=Path(data.path),
        out=Path(teacher_embeddings.path),
    )
    teacher_embeddings.metadata.update(artifact.metadata)
