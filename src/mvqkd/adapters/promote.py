"""The ``promote`` stage: log the lineage, register the bundle, move the champion alias if the gate said so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mvqkd.adapters.mlflow_store import connect, registry_errors
from mvqkd.adapters.registration import Registration, move_aliases, refuse_overtaken, register
from mvqkd.adapters.run_records import TAG_GIT_SHA, flatten
from mvqkd.adapters.tracking import TAG_DECISION, LoggedRun, log_lineage
from mvqkd.artifacts import Artifact, PartialArtifact, load_artifact, write_json
from mvqkd.config import PromoteConfig

PROMOTION_FILE = "promotion.json"
TAG_PIPELINE_RUN = "mvqkd.pipeline_run"

# The decision's figures that become the parent run's metrics, under names that say whose they are.
_HEADLINE = {
    "wer": "student_wer_onnx",
    "cer": "student_cer_onnx",
    "torch.wer": "student_wer_torch",
    "rtf": "rtf_onnx",
    "champion.wer": "champion_wer",
    "quantizer_error": "quantizer_relative_error",
    "test_utterances": "test_utterances",
}


def promote(
    config: PromoteConfig,
    *,
    decision: Path,
    bundle: Path,
    wer_report: Path,
    student: Path,
    data: Path,
    out: Path,
    codebook_indexes: Path | None = None,
    quantizer: Path | None = None,
    teacher_embeddings: Path | None = None,
    pipeline_run: str | None = None,
) -> Artifact:
    """Log one MLflow run with a nested run a stage, register the bundle, and promote it when the decision says so.

    A rejected bundle is registered as well, with the decision as a tag and the alias ``challenger``; the champion
    stays. Doing it again with the same bundle and decision changes nothing.

    Args:
        decision, bundle, wer_report, student, data: artifacts of one lineage.
        codebook_indexes, quantizer, teacher_embeddings: logged when they belong to the lineage; left out, with no
            error, when nothing in it was made from any artifact of their kind.
        pipeline_run: id of the orchestrator's run that this belongs to, becomes a tag of the MLflow run.
    Returns:
        promotion artifact; promotion.json names model, version, run and aliases.
    Raises:
        ArtifactError: an input is missing, corrupt or of another lineage.
        RegistryError: the store failed, or another champion has been promoted since the decision.
    """
    artifacts = _load_lineage(
        decision, bundle, wer_report, student, data, [codebook_indexes, quantizer, teacher_embeddings]
    )
    by_kind = {artifact.kind: artifact for artifact in artifacts}
    verdict, shipped = by_kind["promotion-decision"], by_kind["onnx-bundle"]
    promoted = verdict.facts["decision"] == "promote"

    partial = PartialArtifact(
        out, "promotion", stage="promote", config=config.model_dump(mode="json"), parents=[verdict, shipped]
    )
    client = connect()
    if promoted:
        refuse_overtaken(client, config.model_name, shipped, verdict)
    run = log_lineage(
        client,
        artifacts,
        experiment=config.experiment,
        bundle=shipped,
        decision=verdict,
        headline=_headline(verdict),
        tags={"mvqkd.decision": verdict.facts["decision"], "mlflow.note.content": _description(verdict, artifacts)},
    )
    if pipeline_run:
        with registry_errors("tagging the run"):
            client.set_tag(run.run_id, TAG_PIPELINE_RUN, pipeline_run)
    version = register(
        client,
        config.model_name,
        shipped,
        run,
        tags=_version_tags(verdict, artifacts),
        description=_description(verdict, artifacts),
    )
    registration = move_aliases(client, config.model_name, version, promoted=promoted)
    return _commit(partial, config, verdict, run, registration)


def _load_lineage(
    decision: Path, bundle: Path, wer_report: Path, student: Path, data: Path, optional: Sequence[Path | None]
) -> list[Artifact]:
    """Load and check every artifact; returns them in the order they were made."""
    verdict = load_artifact(decision, "promotion-decision")
    shipped = load_artifact(bundle, "onnx-bundle")
    report = load_artifact(wer_report, "wer-report")
    checkpoint = load_artifact(student, "student-checkpoint")
    manifest = load_artifact(data, "cut-manifest", verify="size")
    verdict.require_parent(shipped)
    verdict.require_parent(report)
    shipped.require_parent(checkpoint)
    report.require_parent(checkpoint)
    checkpoint.require_parent(manifest)
    lineage = [checkpoint, report, shipped, verdict]
    for path in optional:
        if path is None:
            continue
        # Sizes only: codebook indexes may be many gigabytes, and nothing is computed from them here.
        ancestor = load_artifact(path, verify="size")
        children = [artifact for artifact in lineage if ancestor.kind in artifact.parents]
        for child in children:
            child.require_parent(ancestor)
        if children:
            lineage.insert(0, ancestor)
    return [manifest, *lineage]


def _headline(decision: Artifact) -> dict[str, float]:
    known = dict(flatten(decision.figures))
    figures = {metric: known.get(name) for name, metric in _HEADLINE.items()}
    return {
        name: float(value) for name, value in figures.items() if isinstance(value, int | float) and math.isfinite(value)
    }


def _version_tags(decision: Artifact, lineage: Sequence[Artifact]) -> dict[str, str]:
    tags = {f"mvqkd.{artifact.kind}": artifact.id for artifact in lineage}
    tags |= {
        TAG_DECISION: decision.id,
        "mvqkd.decision": decision.facts["decision"],
        "mvqkd.reason": decision.figures["reason"],
        "mvqkd.test_set_sha256": decision.facts["test_set_sha256"],
        "mvqkd.text_normalizer": decision.facts["text_normalizer"],
        "mvqkd.wer": str(decision.figures.get("wer", "nan")),
    }
    if decision.git_sha:
        tags[TAG_GIT_SHA] = decision.git_sha
    return tags


def _description(decision: Artifact, lineage: Sequence[Artifact]) -> str:
    figures = decision.figures
    wer = figures.get("wer")
    bounds = figures.get("wer_interval_95")
    interval = " (95 %: {:.1f} to {:.1f} %)".format(*(100 * bound for bound in bounds)) if bounds else ""
    lines = [
        f"**{decision.facts['decision']}**: {figures['reason']}",
        "",
        f"WER of the ONNX bundle: {'unknown' if wer is None else f'{100 * wer:.2f} %'}{interval} on "
        f"{figures.get('test_utterances')} utterances of test set `{decision.facts['test_set_sha256'][:12]}`.",
        "",
        "| stage | artifact | id |",
        "|---|---|---|",
        *(f"| {artifact.stage} | {artifact.kind} | `{artifact.short_id}` |" for artifact in lineage),
    ]
    return "\n".join(lines)


def _commit(
    partial: PartialArtifact, config: PromoteConfig, decision: Artifact, run: LoggedRun, registration: Registration
) -> Artifact:
    record: dict[str, Any] = {
        "model_name": config.model_name,
        "version": registration.version,
        "uri": f"models:/{config.model_name}/{registration.version}",
        "run_id": run.run_id,
        "decision": decision.facts["decision"],
        "reason": decision.figures["reason"],
        "aliases": dict(registration.aliases),
        "previous_champion": registration.previous_champion,
    }
    write_json(partial.path / PROMOTION_FILE, record)
    figures = {
        "decision": decision.facts["decision"],
        "model_name": config.model_name,
        "model_version": registration.version,
        "mlflow_run_id": run.run_id,
    }
    return partial.commit(facts={"decision": decision.facts["decision"]}, figures=figures)
