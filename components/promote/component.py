"""promote as a Kubeflow component."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def promote(
    config: str,
    decision: dsl.Input[dsl.Artifact],
    bundle: dsl.Input[dsl.Model],
    wer_report: dsl.Input[dsl.Artifact],
    student: dsl.Input[dsl.Model],
    data: dsl.Input[dsl.Dataset],
    promotion: dsl.Output[dsl.Artifact],
    codebook_indexes: dsl.Input[dsl.Dataset] = None,
    quantizer: dsl.Input[dsl.Model] = None,
    teacher_embeddings: dsl.Input[dsl.Dataset] = None,
) -> None:
    """Log the run, register the bundle and move the champion alias if the gate said so.

    Args:
        config: section promote as JSON.
        decision: promotion-decision.
        bundle: onnx-bundle.
        wer_report: wer-report.
        student: student-checkpoint.
        data: cut-manifest.
        codebook_indexes: codebook-indexes, where the stage needs it.
        quantizer: quantizer, where the stage needs it.
        teacher_embeddings: teacher-embeddings, where the stage needs it.
        promotion: the promotion that is written.
    """
    from pathlib import Path

    from mvqkd.adapters.promote import promote
    from mvqkd.config import PromoteConfig, section_from_json

    artifact = promote(
        section_from_json(PromoteConfig, config),
        decision=Path(decision.path),
        bundle=Path(bundle.path),
        wer_report=Path(wer_report.path),
        student=Path(student.path),
        data=Path(data.path),
        codebook_indexes=Path(codebook_indexes.path) if codebook_indexes else None,
        quantizer=Path(quantizer.path) if quantizer else None,
        teacher_embeddings=Path(teacher_embeddings.path) if teacher_embeddings else None,
        out=Path(promotion.path),
    )
    promotion.metadata.update(artifact.metadata)
