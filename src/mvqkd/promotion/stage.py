"""The ``gate`` stage: read bundle, reports and champion, decide, write the decision with all its rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mvqkd.artifacts import Artifact, PartialArtifact, load_artifact, write_json
from mvqkd.config import GateConfig
from mvqkd.errors import ArtifactMismatchError
from mvqkd.promotion.gate import Candidate, decide
from mvqkd.promotion.reports import RECORD_DECODER, Report, ReportRow, read_lineage, read_parity, read_report

DECISION_FILE = "decision.json"


def gate(
    config: GateConfig,
    *,
    bundle: Path,
    wer_report: Path,
    out: Path,
    quantizer: Path | None = None,
    champion: Path | None = None,
    other_reports: Sequence[Path] = (),
) -> Artifact:
    """Judge a bundle and write a promotion-decision; a rejected challenger is a result, not an error.

    Args:
        bundle: onnx-bundle under judgement, with wer.json and parity.json.
        wer_report: wer-report of the same student, decoded by torch.
        quantizer: quantizer whose indexes the student learnt from; ignored when it learnt from none.
        champion: directory of the champion's bundle; None when there is none yet.
        other_reports: wer-reports of the same student on further test sets; each must keep the absolute bound.
    Returns:
        promotion-decision; ``figures["decision"]`` is ``promote`` or ``reject``, decision.json holds every check.
    Raises:
        ArtifactError: an input is missing, corrupt, or of another student, data set or quantizer.
    """
    bundle_artifact = load_artifact(bundle, "onnx-bundle")
    torch_artifact = load_artifact(wer_report, "wer-report")
    others = [load_artifact(path, "wer-report") for path in other_reports]
    for report_artifact in (torch_artifact, *others):
        _require_common_parent(bundle_artifact, report_artifact, "student-checkpoint")
        if "cut-manifest" in bundle_artifact.parents and "cut-manifest" in report_artifact.parents:
            _require_common_parent(bundle_artifact, report_artifact, "cut-manifest")
    quantizer_artifact = _quantizer_of(bundle_artifact, quantizer)
    champion_artifact = None if champion is None else load_artifact(champion, "onnx-bundle")

    report, torch_report = read_report(bundle_artifact), read_report(torch_artifact)
    challenger = _candidate(bundle_artifact, report, quantizer_artifact, others)
    rival_report = None if champion_artifact is None else read_report(champion_artifact)
    rival = None
    if champion_artifact is not None and rival_report is not None:
        rival = _candidate(champion_artifact, rival_report, None)
    decision = decide(challenger, rival, config)

    inputs = [bundle_artifact, torch_artifact, *([quantizer_artifact] if quantizer_artifact else [])]
    partial = PartialArtifact(out, "promotion-decision", stage="gate", config=_as_json(config), parents=inputs)
    figures = {
        "decision": decision.decision,
        "reason": decision.reason,
        **_scores(report.record),
        "torch": _scores(torch_report.row("torch", RECORD_DECODER)),
        "champion": _scores(None if rival_report is None else rival_report.record),
        "rtf": bundle_artifact.figures.get("rtf"),
        "test_utterances": report.num_utterances,
        "quantizer_error": challenger.quantizer_error,
    }
    write_json(
        partial.path / DECISION_FILE,
        {
            **decision.to_json(),
            "bundle_id": bundle_artifact.id,
            "champion_id": champion_artifact.id if champion_artifact else None,
            "test_set_sha256": report.test_set_sha256,
            "text_normalizer": report.text_normalizer,
            "thresholds": _as_json(config),
        },
    )
    facts = {
        "decision": decision.decision,
        "bundle_id": bundle_artifact.id,
        # What it was judged against: promote refuses a decision that another champion has overtaken.
        "champion_id": champion_artifact.id if champion_artifact else None,
        "test_set_sha256": report.test_set_sha256,
        "text_normalizer": report.text_normalizer,
        **({"other_report_ids": sorted(artifact.id for artifact in others)} if others else {}),
    }
    return partial.commit(facts=facts, figures={name: value for name, value in figures.items() if _recordable(value)})


def _recordable(value: Any) -> bool:
    # JSON has no NaN; decision.json names one where it decided.
    return value not in (None, {}) and not (isinstance(value, float) and not math.isfinite(value))


def _candidate(
    bundle: Artifact, report: Report, quantizer: Artifact | None, others: Sequence[Artifact] = ()
) -> Candidate:
    return Candidate(
        bundle_id=bundle.id,
        wer=None if report.record is None else report.record.wer,
        num_utterances=report.num_utterances,
        test_set_sha256=report.test_set_sha256,
        text_normalizer=report.text_normalizer,
        parity_ok=read_parity(bundle),
        quantizer_error=None if quantizer is None else _relative_error(quantizer),
        other_wers=dict(sorted(_other_wer(artifact) for artifact in others)),
    )


def _other_wer(artifact: Artifact) -> tuple[str, float | None]:
    """A further test set and the student's WER on it; decoded by torch, as the bundle was scored on one set alone."""
    report = read_report(artifact)
    row = report.row("torch", RECORD_DECODER)
    return report.split, None if row is None else row.wer


def _quantizer_of(bundle: Artifact, given: Path | None) -> Artifact | None:
    """The quantizer that the bundle's student learnt from, checked; None when it learnt from none."""
    wanted = read_lineage(bundle).get("quantizer")
    if wanted is None:
        return None
    quantizer = None if given is None else load_artifact(given, "quantizer")
    if quantizer is None or quantizer.id != wanted:
        raise ArtifactMismatchError(
            f"onnx-bundle {bundle.path} ({bundle.short_id})",
            expected=f"quantizer {wanted[:12]}, which its student learnt from",
            got="none" if quantizer is None else f"quantizer {quantizer.short_id} at {quantizer.path}",
            next_step="pass that one with --quantizer, or re-run encode-ci, train-student and what follows",
        )
    return quantizer


def _relative_error(quantizer: Artifact) -> float:
    # A quantizer without the figure must fail the bound, not slip past it.
    figure = quantizer.figures.get("relative_error")
    return float("nan") if figure is None else float(figure)


def _scores(row: ReportRow | None) -> dict[str, Any]:
    if row is None:
        return {}
    scores = {"wer": row.wer, "cer": row.cer, "wer_interval_95": row.interval_95 and list(row.interval_95)}
    return {name: value for name, value in scores.items() if _recordable(value)}


def _require_common_parent(bundle: Artifact, report: Artifact, kind: str) -> None:
    ours, theirs = bundle.parents.get(kind), report.parents.get(kind)
    if ours is None or ours != theirs:
        raise ArtifactMismatchError(
            f"wer-report {report.path} ({report.short_id})",
            expected=f"{kind} {ours[:12] if ours else 'none'} as its parent, like bundle {bundle.short_id}",
            got=f"{kind} {theirs[:12] if theirs else 'none'}",
            next_step="re-run evaluate and export-onnx on one student and one data set",
        )


def _as_json(config: GateConfig) -> dict[str, Any]:
    values: dict[str, Any] = config.model_dump(mode="json")
    return values
