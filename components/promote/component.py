"""promote as a Kubeflow component."""

from typing import NamedTuple

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def promote(
    config: str,
    pipeline_run: str,
    decision: dsl.Input[dsl.Artifact],
    decision_id: str,
    bundle: dsl.Input[dsl.Model],
    bundle_id: str,
    wer_report: dsl.Input[dsl.Artifact],
    wer_report_id: str,
    student: dsl.Input[dsl.Model],
    student_id: str,
    data: dsl.Input[dsl.Dataset],
    data_id: str,
    promotion: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    codebook_indexes: dsl.Input[dsl.Dataset] = None,
    codebook_indexes_id: str = "",
    quantizer: dsl.Input[dsl.Model] = None,
    quantizer_id: str = "",
    teacher_embeddings: dsl.Input[dsl.Dataset] = None,
    teacher_embeddings_id: str = "",
) -> NamedTuple("Outputs", artifact_id=str):
    """Log the run, register the bundle and move the champion alias if the gate said so.

    Args:
        config: section promote as JSON.
        pipeline_run: Kubeflow's id of this run.
        decision: promotion-decision.
        decision_id: its content id.
        bundle: onnx-bundle.
        bundle_id: its content id.
        wer_report: the wer-report that the decision was made by.
        wer_report_id: its content id.
        student: student-checkpoint.
        student_id: its content id.
        data: cut-manifest.
        data_id: its content id.
        codebook_indexes: codebook-indexes, where the stage needs it.
        codebook_indexes_id: its content id.
        quantizer: quantizer, where the stage needs it.
        quantizer_id: its content id.
        teacher_embeddings: teacher-embeddings, where the stage needs it.
        teacher_embeddings_id: its content id.
        promotion: the promotion that is written.
        page: the whole run, with its worst utterances to listen to.

    Returns:
        artifact_id: its content id.
    """
    from mvqkd.adapters.kubeflow import run_stage

    artifact = run_stage(
        "promote",
        config,
        inputs={
            "decision": (decision, decision_id),
            "bundle": (bundle, bundle_id),
            "wer_report": (wer_report, wer_report_id),
            "student": (student, student_id),
            "data": (data, data_id),
            "codebook_indexes": (codebook_indexes, codebook_indexes_id),
            "quantizer": (quantizer, quantizer_id),
            "teacher_embeddings": (teacher_embeddings, teacher_embeddings_id),
        },
        extra={"pipeline_run": pipeline_run},
        output=promotion,
        page=page,
    )
    return (artifact.id,)
