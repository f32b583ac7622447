"""What a registered version says of itself on MLflow's pages: tags to find it by, and a description for people.

A reviewer reads the description in a minute: the verdict, the figures beside the champion's, every check, what the
student was made from, and the commands for what one may want to do next.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mvqkd.adapters.lineage_record import Delivery, params_digest, size_bytes
from mvqkd.adapters.registry_text import one_line, plain
from mvqkd.adapters.run_records import TAG_GIT_SHA
from mvqkd.adapters.tracking import PAGE_FILE, TAG_DECISION
from mvqkd.artifacts import Artifact
from mvqkd.promotion.files import DECISION_FILE

TAG_VERDICT = "mvqkd.decision"
TAG_AWAITS = "mvqkd.awaits"
TAG_REVIEW = "mvqkd.review"
TAG_JUDGED_AGAINST = "mvqkd.judged_against"
TAG_WER = "mvqkd.wer"
TAG_DVC = "mvqkd.dvc."

# MLflow's database has room for 5,000.
MAX_DESCRIPTION = 4900
_MAX_CHECKS = 2200
_REVIEW = "REVIEW: "
# What took long to make, is small, and may be on a remote.
_DVC_TAGGED = "codebook-indexes"
_SHOWN = {"fail": "✗&nbsp;fail", "pass": "✓&nbsp;pass"}
_NOT_STATED = "not stated"


def version_tags(delivery: Delivery) -> dict[str, str]:
    """Tags of the version; all but the decision's are the same whenever the same bundle is delivered."""
    decision = delivery.decision
    # As few as will do: MLflow's list of versions shows all of each, one below the other. The rest is in lineage.json.
    named_otherwise = (delivery.bundle, decision)
    tags = {f"mvqkd.{artifact.kind}": artifact.id for artifact in delivery.artifacts if artifact not in named_otherwise}
    tags |= {f"{TAG_DVC}{kind}": identity for kind, identity in delivery.dvc.items() if kind == _DVC_TAGGED}
    tags |= {
        TAG_DECISION: decision.id,
        TAG_VERDICT: decision.facts["decision"],
        TAG_JUDGED_AGAINST: decision.facts.get("champion_id") or "",
        "mvqkd.reason": one_line(decision.figures["reason"]),
        "mvqkd.test_set_sha256": decision.facts["test_set_sha256"],
        "mvqkd.text_normalizer": decision.facts["text_normalizer"],
        TAG_WER: str(decision.figures.get("wer", "nan")),
        "mvqkd.params_sha256": params_digest(delivery),
        "mvqkd.data_licence": one_line(_fact(delivery, ("cut-manifest",), "licence")),
    }
    student = delivery.required("student-checkpoint")
    if (objective := student.facts.get("objective", student.config.get("objective"))) is not None:
        tags["mvqkd.objective"] = str(objective)
    if (teacher := _teacher(delivery)) is not None:
        tags["mvqkd.teacher"] = one_line(teacher)
        tags["mvqkd.teacher_licence"] = one_line(_fact(delivery, _TAUGHT, "teacher_licence"))
    # The code that made what ships; the decision may have been made with another.
    if delivery.bundle.git_sha:
        tags[TAG_GIT_SHA] = delivery.bundle.git_sha
    return tags


def description(delivery: Delivery, model_name: str, version: int | None = None) -> str:
    """Markdown, at most as long as MLflow keeps: what comes last gives way, and of many checks those that passed."""
    decision = delivery.decision
    record = json.loads((decision.path / DECISION_FILE).read_text(encoding="utf-8"))
    # The list of versions shows the first words as they stand: no Markdown in them.
    verdict = f"{decision.facts['decision'].upper()}, WER {_percent(decision.figures.get('wer'))}"
    text = "\n".join([f"{verdict}: {plain(decision.figures['reason'])}", "", *_figures(decision)])
    sections = [
        ("Checks", _checks(record.get("checks", []))),
        ("Made from", _made_from(delivery)),
        ("What next", _commands(model_name, version)),
        ("Artifacts", _artifacts(delivery)),
    ]
    for title, lines in sections:
        part = "\n".join(["", "", f"#### {title}", *lines])
        if lines and len(text) + len(part) <= MAX_DESCRIPTION:
            text += part
    return text


def reviewed(text: str, review: str | None) -> str:
    """A description with what a person has decided on top, in place of an earlier such line."""
    rest = text.partition("\n\n")[2] if text.startswith(_REVIEW) else text
    return f"{_REVIEW}{plain(review)}\n\n{rest}"[:MAX_DESCRIPTION] if review else rest


def _figures(decision: Artifact) -> list[str]:
    figures = decision.figures
    champion = figures.get("champion") or {}
    sets = [("this version", figures), *([("champion", champion)] if champion else [])]
    rows = [
        (name, _percent(scores.get("wer")), _interval(scores.get("wer_interval_95")), _percent(scores.get("cer")))
        for name, scores in sets
    ]
    rtf = figures.get("rtf")
    return [
        *_table(("", "WER", "95 %", "CER"), rows),
        "",
        f"ONNX bundle, {plain(figures.get('test_utterances', '?'))} utterances of test set "
        f"`{plain(decision.facts['test_set_sha256'])[:12]}`, texts normalised by "
        f"`{plain(decision.facts['text_normalizer'])}`"
        + (f", {rtf:.4f} s of computing a second of audio." if isinstance(rtf, float) else "."),
        "",
        f"The whole run on one page, with its worst utterances to listen to: `{PAGE_FILE}` in the source run's files.",
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    # MLflow's pages give cells no padding: without a space of its own a column runs into the next.
    lines = [" | ".join(f"{cell}&emsp;" for cell in row) for row in (head, *rows)]
    return [f"| {lines[0]} |", "|---" * len(head) + "|", *(f"| {line} |" for line in lines[1:])]


def _made_from(delivery: Delivery) -> list[str]:
    data, student = delivery.required("cut-manifest"), delivery.required("student-checkpoint")
    hours = data.facts.get("hours") or {}
    shown = ", ".join(f"{plain(split)} {plain(_number(value))} h" for split, value in hours.items())
    lines = [f"- Speech: {plain(data.facts.get('source', '?'))} ({shown}), licence {plain(_licence(data))}"]
    teacher = _teacher(delivery)
    if teacher is None:
        lines.append("- No teacher: the student was trained on transcripts alone")
    else:
        licence = _fact(delivery, _TAUGHT, "teacher_licence")
        lines.append(f"- Teacher: {plain(teacher)}, licence {plain(licence)}")
    quantizer = delivery.of("quantizer")
    if quantizer is not None:
        error = quantizer.figures.get("relative_error")
        lines.append(
            f"- Codebook indexes: {plain(quantizer.facts.get('num_codebooks', '?'))} bytes a teacher frame"
            + (f", relative reconstruction error {error:.3f}" if isinstance(error, float) else "")
        )
    parameters = student.figures.get("num_parameters")
    lines.append(
        f"- Student: objective {plain(student.config.get('objective', '?'))}"
        + (f", {parameters / 1e6:.2f} M parameters" if isinstance(parameters, int | float) else "")
        + f", bundle of {size_bytes(delivery.bundle) / 1e6:.1f} MB"
    )
    if delivery.bundle.git_sha:
        lines.append(f"- Code: `{plain(delivery.bundle.git_sha)[:12]}`, parameters `{params_digest(delivery)[:12]}`")
    return lines


def _commands(model_name: str, version: int | None) -> list[str]:
    uri = f"models:/{model_name}/{'VERSION' if version is None else version}"
    commands = [
        (f"mvqkd transcribe --bundle {uri} FILE", "try it"),
        (f"mvqkd approve {uri} --reason WHY", "make it champion"),
        (f"mvqkd reject {uri} --reason WHY", "never make it champion"),
        (f"mvqkd rollback --model {model_name}", "undo a promotion"),
        (f"mvqkd history --model {model_name}", "who, what, when, why"),
        (f"mvqkd reproduce {uri}", "make it again"),
    ]
    width = max(len(command) for command, _ in commands)
    return ["```", *(f"{command.ljust(width)}  # {purpose}" for command, purpose in commands), "```"]


def _artifacts(delivery: Delivery) -> list[str]:
    rows = [
        (plain(artifact.stage), artifact.kind, f"`{artifact.short_id}`", _dvc_shown(delivery.dvc.get(artifact.kind)))
        for artifact in delivery.artifacts
    ]
    return _table(("stage", "artifact", "id", "DVC"), rows)


def _checks(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Failed ones first; of those that did not apply the names; more than fit are counted."""
    shown = sorted(
        (check for check in checks if check["verdict"] != "skip"), key=lambda check: check["verdict"] == "pass"
    )
    rows: list[Sequence[str]] = []
    length = 0
    for check in shown:
        row = (_SHOWN[check["verdict"]], plain(check["name"]), plain(check["why"]))
        length += sum(len(cell) + 9 for cell in row)
        if length > _MAX_CHECKS:
            break
        rows.append(row)
    lines = _table(("", "check", "why"), rows) if rows else []
    skipped = [plain(check["name"]) for check in checks if check["verdict"] == "skip"]
    if len(rows) < len(shown):
        lines += ["", f"{len(shown) - len(rows)} more in decision.json of the run."]
    if skipped:
        lines += ["", f"Did not apply: {'; '.join(skipped)[:300]}."]
    return lines


_TAUGHT = ("student-checkpoint", "codebook-indexes", "teacher-embeddings", "quantizer")


def _teacher(delivery: Delivery) -> str | None:
    for kind in _TAUGHT:
        artifact = delivery.of(kind)
        if artifact is not None and "teacher_id" in artifact.facts:
            layer = artifact.facts.get("teacher_layer", artifact.facts.get("layer"))
            return f"{artifact.facts['teacher_id']}" + (f", layer {layer}" if layer else "")
    return None


def _fact(delivery: Delivery, kinds: Iterable[str], name: str) -> str:
    """The first of these artifacts that states it."""
    artifacts = [artifact for kind in kinds if (artifact := delivery.of(kind)) is not None]
    return next((str(artifact.facts[name]) for artifact in artifacts if artifact.facts.get(name)), _NOT_STATED)


def _licence(data: Artifact) -> str:
    return str(data.facts.get("licence") or _NOT_STATED)


def _dvc_shown(identity: str | None) -> str:
    return f"`{identity[:8]}…`" if identity else ""


def _percent(share: Any) -> str:
    return f"{100 * share:.2f} %" if isinstance(share, int | float) else "unknown"


def _interval(bounds: Any) -> str:
    return "{:.1f} to {:.1f} %".format(*(100 * bound for bound in bounds)) if bounds else ""


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
