"""The ``promote`` stage: log the lineage, register the bundle, move the champion alias if the gate said so."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mvqkd.adapters import spool
from mvqkd.adapters.delivery import Delivered, deliver
from mvqkd.adapters.lineage_record import Delivery, dvc_ids
from mvqkd.adapters.mlflow_store import StoreError
from mvqkd.adapters.registry import registered_bundle
from mvqkd.adapters.registry_change import PREVIOUS
from mvqkd.adapters.tracking import PAGE_FILE
from mvqkd.artifacts import Artifact, PartialArtifact, load_artifact, write_json
from mvqkd.config import PromoteConfig
from mvqkd.errors import MvqkdError
from mvqkd.report.page import run_report

PROMOTION_FILE = "promotion.json"

_LOG = logging.getLogger("mvqkd.registry")


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
    stays. Doing it again with the same bundle and decision changes nothing. When the store fails, all that it was to be
    told is kept beside ``out`` for ``mvqkd sync``.

    Args:
        decision, bundle, wer_report, student, data: artifacts of one lineage.
        codebook_indexes, quantizer, teacher_embeddings: logged when they belong to the lineage; left out, with no
            error, when nothing in it was made from any artifact of their kind.
        pipeline_run: id of the orchestrator's run that this belongs to, becomes a tag of the MLflow run.
    Returns:
        promotion artifact; promotion.json names model, version, run and aliases, report.html is the run's page, which
        MLflow's run has as well.
    Raises:
        ArtifactError: an input is missing, corrupt or of another lineage.
        StoreError: the store failed.
        RegistryError: another champion has been promoted since the decision, or somebody has rejected the version.
    """
    artifacts = _load_lineage(
        decision, bundle, wer_report, student, data, [codebook_indexes, quantizer, teacher_embeddings]
    )
    page = run_report(
        {artifact.kind: artifact for artifact in artifacts},
        champion=_rival(config.model_name, artifacts[-1]),
        audio=config.report_audio,
    )
    delivery = Delivery(tuple(artifacts), dvc_ids(artifacts), config, pipeline_run, page=page)
    partial = new_promotion(delivery, out)
    try:
        delivered = deliver(delivery)
    except StoreError as error:
        kept = spool.keep(delivery, out)
        raise StoreError(
            error.subject,
            expected=error.expected,
            got=error.got,
            next_step=f"{error.next_step}; nothing is lost: `mvqkd sync` delivers what lies in {kept}",
        ) from error
    spool.forget(delivery, out)
    return commit_promotion(partial, delivery, delivered)


def _rival(model_name: str, decision: Artifact) -> Path | None:
    """The champion that the gate has compared with; where it cannot be had, the page goes without."""
    judged_against = decision.facts.get("champion_id")
    if judged_against is None:
        return None
    try:
        return registered_bundle(model_name, judged_against)
    except MvqkdError as error:
        _LOG.warning("the page has no figures of the champion: %s", error)
        return None


def new_promotion(delivery: Delivery, out: Path) -> PartialArtifact:
    """The promotion artifact of a delivery, to be committed when it got through."""
    config = delivery.config.model_dump(mode="json")
    return PartialArtifact(
        out, "promotion", stage="promote", config=config, parents=[delivery.decision, delivery.bundle]
    )


def commit_promotion(partial: PartialArtifact, delivery: Delivery, delivered: Delivered) -> Artifact:
    """Write what MLflow has now."""
    config, decision = delivery.config, delivery.decision
    aliases = dict(delivered.standing.aliases)
    record: dict[str, Any] = {
        "model_name": config.model_name,
        "version": delivered.version,
        "uri": f"models:/{config.model_name}/{delivered.version}",
        "run_id": delivered.run_id,
        "decision": decision.facts["decision"],
        "reason": decision.figures["reason"],
        "audit_entry": delivered.entry,
        "aliases": aliases,
        "previous_champion": aliases.get(PREVIOUS),
    }
    write_json(partial.path / PROMOTION_FILE, record)
    if delivery.page is not None:
        (partial.path / PAGE_FILE).write_text(delivery.page, encoding="utf-8")
    figures = {
        "decision": decision.facts["decision"],
        "model_name": config.model_name,
        "model_version": delivered.version,
        "mlflow_run_id": delivered.run_id,
    }
    return partial.commit(facts={"decision": decision.facts["decision"]}, figures=figures)


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
