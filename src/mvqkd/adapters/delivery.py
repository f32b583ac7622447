"""Tell MLflow of one student and one decision: the run, the version, the audit entry, the alias. Safe to repeat."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

from mvqkd.adapters.lineage_record import Delivery
from mvqkd.adapters.mlflow_store import connect, registry_errors
from mvqkd.adapters.registration import register
from mvqkd.adapters.registry import bundle_of, versions_of
from mvqkd.adapters.registry_change import Standing, carry_out, settle, version_or_none
from mvqkd.adapters.registry_log import new_entry
from mvqkd.adapters.registry_page import TAG_AWAITS, TAG_VERDICT, description
from mvqkd.adapters.registry_state import Entry, Outcome
from mvqkd.adapters.registry_text import require_experiment_name, require_model_name
from mvqkd.adapters.run_records import TAG_BUNDLE, flatten
from mvqkd.adapters.tracking import TAG_PIPELINE_RUN, log_lineage
from mvqkd.errors import RegistryError

_LOG = logging.getLogger("mvqkd.registry")

TAG_AUDIT_ENTRY = "mvqkd.audit_entry"

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


@dataclass(frozen=True)
class Delivered:
    """What MLflow has after a delivery. ``entry``: number of the audit entry, None while a reviewer is awaited."""

    run_id: str
    version: int
    entry: int | None
    standing: Standing


def deliver(delivery: Delivery) -> Delivered:
    """Log, register and, where the decision says so, promote; what has been done before is not done again.

    Raises:
        StoreError: the store failed; deliver again when it is back.
        RegistryError: another champion has been promoted since the decision, or a person has rejected the version.
    """
    name = require_model_name(delivery.config.model_name)
    require_experiment_name(delivery.config.experiment)
    client = connect()
    moves = delivery.says_promote and delivery.config.approval == "gate"
    now = settle(client, name)
    if moves:
        _refuse_overtaken(client, name, delivery, now)
    # What the decision was compared with: the entry takes effect only if this is champion still when it is written.
    seen = now.champion
    run = log_lineage(
        client,
        delivery,
        headline=_headline(delivery),
        tags={TAG_VERDICT: delivery.decision.facts["decision"], "mlflow.note.content": description(delivery, name)},
    )
    if delivery.pipeline_run:
        with registry_errors("tagging the run"):
            client.set_tag(run.run_id, TAG_PIPELINE_RUN, delivery.pipeline_run)
    version = register(client, name, delivery, run)
    now = settle(client, name)
    done = now.state.decisions.get(delivery.decision.id)
    if done is not None:
        if moves and now.champion != version:
            _LOG.warning("%s version %d: its promotion, entry %d, was undone since, and stays so", name, version, done)
        return Delivered(run.run_id, version, done, now)
    if moves and now.champion == version:
        return Delivered(run.run_id, version, now.state.moved_by.number if now.state.moved_by else None, now)
    if moves or not delivery.says_promote:
        return _decide(client, name, delivery, run.run_id, version, seen)
    with registry_errors(f"tagging {name} version {version}"):
        client.set_model_version_tag(name, str(version), TAG_AWAITS, "approval")
    return Delivered(run.run_id, version, None, now)


def _decide(client: Any, name: str, delivery: Delivery, run_id: str, version: int, seen: int | None) -> Delivered:
    """Write the decision to the audit log, and see whether it counts."""
    if delivery.says_promote:
        # What cannot be fetched again must not become champion.
        with registry_errors(f"looking up {name} version {version}"):
            registered = client.get_model_version(name, str(version))
        bundle_of(client, registered, afresh=True)
    written, outcome, now = carry_out(client, name, _entry(delivery, version, seen))
    with registry_errors(f"tagging {name} version {version}"):
        client.set_model_version_tag(name, str(version), TAG_AUDIT_ENTRY, f"{written.number}: {outcome.verdict}")
    if outcome.verdict == "lost":
        raise _lost(name, delivery, version, written, outcome, now)
    number = outcome.by if outcome.verdict == "repeated" else written.number
    return Delivered(run_id, version, number, now)


def _entry(delivery: Delivery, version: int | None, champion: int | None) -> Entry:
    return new_entry(
        "promote" if delivery.says_promote else "reject",
        version=version,
        champion=champion,
        why=delivery.decision.figures["reason"],
        bundle_id=delivery.bundle.id,
        decision_id=delivery.decision.id,
        pipeline_run=delivery.pipeline_run,
    )


def _refuse_overtaken(client: Any, name: str, delivery: Delivery, now: Standing) -> None:
    """Refuse a promotion that was decided against another champion than today's, before anything is logged.

    The audit log is told, once.

    Raises:
        RegistryError: naming both champions.
    """
    decision = delivery.decision
    if now.champion is None or decision.id in now.state.decisions:
        return
    judged = decision.facts.get("champion_id")
    with registry_errors(f"looking up the champion of {name}"):
        champion = version_or_none(client, name, now.champion)
        today = None if champion is None else champion.tags.get(TAG_BUNDLE)
        if today in (delivery.bundle.id, judged):
            return
        found = versions_of(client, name, judged) if judged else []
    since = now.state.moved_by.number if now.state.moved_by else 0
    rows = zip(now.log.entries, now.outcomes, strict=True)
    if not any(row.decision_id == decision.id and of.verdict == "lost" and row.number > since for row, of in rows):
        carry_out(client, name, _entry(delivery, None, min(found, default=None)))
    moved = now.state.moved_by
    raise RegistryError(
        f"promotion-decision {decision.path} ({decision.short_id})",
        expected=f"a comparison with champion {name} version {now.champion} ({str(today)[:12]})"
        + (f", there since entry {moved.number} by {moved.who}" if moved else ""),
        got=f"a comparison with {str(judged)[:12] if judged else 'no champion'}",
        next_step="re-run `mvqkd gate`",
    )


def _lost(name: str, delivery: Delivery, version: int, entry: Entry, outcome: Outcome, now: Standing) -> RegistryError:
    decision = delivery.decision
    judged = f"version {entry.champion}" if entry.champion is not None else "no version"
    rejected = outcome.by is not None and outcome.by == now.state.rejected.get(version)
    advice = f"`mvqkd approve models:/{name}/{version} --force`" if rejected else "re-run `mvqkd gate`"
    return RegistryError(
        f"promotion of {name} version {version} by decision {decision.short_id}, audit entry {entry.number}",
        expected=f"{judged} as champion, and version {version} not rejected",
        got=f"{outcome.why}{_by(now, outcome)}",
        next_step=f"the version stays registered; {advice} if it is to become champion",
    )


def _by(now: Standing, outcome: Outcome) -> str:
    author = next((entry.who for entry in now.log.entries if entry.number == outcome.by), None)
    return f", by {author}" if author else ""


def _headline(delivery: Delivery) -> dict[str, float]:
    known = dict(flatten(delivery.decision.figures))
    figures = {metric: known.get(name) for name, metric in _HEADLINE.items()}
    return {
        name: float(value) for name, value in figures.items() if isinstance(value, int | float) and math.isfinite(value)
    }
