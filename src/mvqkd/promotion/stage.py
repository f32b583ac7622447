"""The ``gate`` stage: read bundle, reports and champion, decide, write the decision with all its rows."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mvqkd.artifacts import Artifact, PartialArtifact, load_artifact, write_json
from mvqkd.config import GateConfig
from mvqkd.errors import ArtifactMismatchError
from mvqkd.promotion.candidate import Candidate, Scores
from mvqkd.promotion.files import DECISION_FILE, REPORTS_DIRECTORY
from mvqkd.promotion.gate import decide
from mvqkd.promotion.reports import (
    OTHERS_RUNTIME,
    RECORD_DECODER,
    STREAMING_RUNTIME,
    Report,
    ReportRow,
    has_streaming_graphs,
    read_costs,
    read_lineage,
    read_parity,
    read_report,
    read_scores,
)
from mvqkd.promotion.verdict import Decision

_LOG = logging.getLogger("mvqkd.promotion")


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
        other_reports: wer-reports on further test sets. Those of the same student must keep the absolute bound; where
            there is one of the champion's student on the same set, the gate compares them. Whose each is, its lineage
            says.
    Returns:
        promotion-decision; ``figures["decision"]`` is ``promote`` or ``reject``, decision.json holds every check, and
        ``reports/`` the challenger's wer-reports on further test sets: the next challenger is compared with them.
    Raises:
        ArtifactError: an input is missing, corrupt, or of another student, data set or quantizer.
    """
    bundle_artifact = load_artifact(bundle, "onnx-bundle")
    torch_artifact = load_artifact(wer_report, "wer-report")
    champion_artifact = None if champion is None else load_artifact(champion, "onnx-bundle")
    others, champion_others = _by_student(other_reports, bundle_artifact, champion_artifact)
    for report_artifact in (torch_artifact, *others):
        _require_common_parent(bundle_artifact, report_artifact, "student-checkpoint")
        if "cut-manifest" in bundle_artifact.parents and "cut-manifest" in report_artifact.parents:
            _require_common_parent(bundle_artifact, report_artifact, "cut-manifest")
    quantizer_artifact = _quantizer_of(bundle_artifact, quantizer)

    report, torch_report = read_report(bundle_artifact), read_report(torch_artifact)
    challenger = _candidate(bundle_artifact, report, others, quantizer_artifact)
    rival_report = None if champion_artifact is None else read_report(champion_artifact)
    rival = None
    if champion_artifact is not None and rival_report is not None:
        rival = _candidate(champion_artifact, rival_report, champion_others)
    decision = decide(challenger, rival, config)
    for check in decision.failed:
        _LOG.warning("gate: rejected, %s: %s", check.name, check.why)

    inputs = [bundle_artifact, torch_artifact, *([quantizer_artifact] if quantizer_artifact else [])]
    partial = PartialArtifact(out, "promotion-decision", stage="gate", config=_as_json(config), parents=inputs)
    figures = {
        "decision": decision.decision,
        "reason": decision.reason,
        **_scores(report.record),
        "torch": _scores(torch_report.row("torch", RECORD_DECODER)),
        "champion": _scores(None if rival_report is None else rival_report.record),
        **_against_champion(decision, report.split),
        "rtf": bundle_artifact.figures.get("rtf"),
        "test_utterances": report.num_utterances,
        "quantizer_error": challenger.quantizer_error,
    }
    facts: dict[str, Any] = {
        "decision": decision.decision,
        "bundle_id": bundle_artifact.id,
        # What it was judged against: promote refuses a decision that another champion has overtaken.
        "champion_id": champion_artifact.id if champion_artifact else None,
        "test_set_sha256": report.test_set_sha256,
        "text_normalizer": report.text_normalizer,
    }
    for artifact in others:
        shutil.copytree(artifact.path, partial.path / REPORTS_DIRECTORY / artifact.short_id, dirs_exist_ok=True)
    write_json(partial.path / DECISION_FILE, {**decision.to_json(), **facts, "thresholds": _as_json(config)})
    if others or champion_others:
        facts["other_report_ids"] = sorted({artifact.id for artifact in (*others, *champion_others)})
    return partial.commit(facts=facts, figures={name: value for name, value in figures.items() if _recordable(value)})


def _by_student(
    paths: Sequence[Path], bundle: Artifact, champion: Artifact | None
) -> tuple[list[Artifact], list[Artifact]]:
    """Reports on further test sets: those of the challenger's student (and of strangers), those of the champion's.

    Two bundles of one student share its reports.
    """
    reports = [load_artifact(path, "wer-report") for path in paths]
    student = "student-checkpoint"
    rival = None if champion is None else champion.parents.get(student)
    if rival is None:
        return reports, []
    theirs = [report for report in reports if report.parents.get(student) == rival]
    shared = rival == bundle.parents.get(student)
    return [report for report in reports if shared or report not in theirs], theirs


def _recordable(value: Any) -> bool:
    # JSON has no NaN; decision.json names one where it decided.
    return value not in (None, {}) and not (isinstance(value, float) and not math.isfinite(value))


def _candidate(
    bundle: Artifact, report: Report, others: Sequence[Artifact], quantizer: Artifact | None = None
) -> Candidate:
    streaming = report.row(STREAMING_RUNTIME, RECORD_DECODER)
    return Candidate(
        bundle_id=bundle.id,
        scores=read_scores(bundle, report, report.record),
        parity_ok=read_parity(bundle),
        quantizer_error=None if quantizer is None else _relative_error(quantizer),
        streams=has_streaming_graphs(bundle),
        streaming_wer=None if streaming is None else streaming.wer,
        costs=read_costs(bundle),
        # The set of record is judged by what ships, whatever torch makes of it.
        others={scores.test_set: scores for scores in map(_other_scores, others) if scores.test_set != report.split},
    )


def _other_scores(artifact: Artifact) -> Scores:
    """Scores on a further test set; decoded by torch, as the bundle was scored on one set alone."""
    report = read_report(artifact)
    return read_scores(artifact, report, report.row(OTHERS_RUNTIME, RECORD_DECODER))


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


def _against_champion(decision: Decision, test_set: str) -> dict[str, Any]:
    compared = decision.comparison.get(test_set, {})
    figures = {"difference": "wer_difference", "probability_better": "probability_better"}
    return {figure: compared.get(name) for name, figure in figures.items()}


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
