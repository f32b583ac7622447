"""gate as a Kubeflow component."""

from typing import NamedTuple

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gate(
    config: str,
    promote_config: str,
    bundle: dsl.Input[dsl.Model],
    wer_report: dsl.Input[dsl.Artifact],
    decision: dsl.Output[dsl.Artifact],
    quantizer: dsl.Input[dsl.Model] = None,
) -> NamedTuple("Outputs", verdict=str):
    """Judge the bundle against thresholds and the current champion.

    Args:
        config: section gate as JSON.
        promote_config: section promote as JSON; it names the registered model whose champion is to be beaten.
        bundle: onnx-bundle.
        wer_report: wer-report.
        quantizer: quantizer, where the stage needs it.
        decision: the promotion-decision that is written.

    Returns:
        verdict: promote or reject.
    """
    from pathlib import Path

    from mvqkd.adapters.registry import champion_bundle
    from mvqkd.config import GateConfig, PromoteConfig, section_from_json
    from mvqkd.promotion.stage import gate

    artifact = gate(
        section_from_json(GateConfig, config),
        bundle=Path(bundle.path),
        wer_report=Path(wer_report.path),
        quantizer=Path(quantizer.path) if quantizer else None,
        champion=champion_bundle(section_from_json(PromoteConfig, promote_config).model_name),
        out=Path(decision.path),
    )
    decision.metadata.update(artifact.metadata)
    return (artifact.facts["decision"],)
