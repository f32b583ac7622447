"""gate as a Kubeflow component."""

from typing import NamedTuple

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gate(
    config: str,
    promote_config: str,
    bundle: dsl.Input[dsl.Model],
    bundle_id: str,
    wer_reports: dsl.Input[list[dsl.Artifact]],
    wer_report_ids: list[str],
    decision: dsl.Output[dsl.Artifact],
    wer_report: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    quantizer: dsl.Input[dsl.Model] = None,
    quantizer_id: str = "",
) -> NamedTuple("Outputs", verdict=str, artifact_id=str, wer_report_id=str):
    """Judge the bundle against thresholds and the current champion.

    Args:
        config: section gate as JSON.
        promote_config: section promote as JSON; it names the registered model whose champion is to be beaten.
        bundle: onnx-bundle.
        bundle_id: its content id.
        wer_reports: wer-reports, one a test set.
        wer_report_ids: their content ids.
        quantizer: quantizer, where the stage needs it.
        quantizer_id: its content id.
        decision: the promotion-decision that is written.
        wer_report: the one of the wer-reports by which it was judged.
        page: the decision with every check, to look at.

    Returns:
        verdict: promote or reject.
        artifact_id: content id of the decision.
        wer_report_id: content id of that report.
    """
    from mvqkd.adapters.kubeflow import run_gate

    artifact = run_gate(
        config,
        promote_config,
        bundle=(bundle, bundle_id),
        quantizer=(quantizer, quantizer_id),
        wer_reports=wer_reports,
        wer_report_ids=wer_report_ids,
        output=decision,
        record=wer_report,
        page=page,
    )
    return (artifact.facts["decision"], artifact.id, artifact.parents["wer-report"])
