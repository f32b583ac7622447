"""``mvqkd summary``: the figures of all stages in artifacts/summary.json, as a table, and what to try next."""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mvqkd.artifacts import ARTIFACT_FILE, Artifact, load_artifact, write_json
from mvqkd.errors import ArtifactNotFoundError
from mvqkd.stages import STAGES

SUMMARY_FILE = "summary.json"
_RECORD = "onnxruntime/greedy"
_COLUMNS = 110
_NO_BREAK = "\u00a0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where the artifacts lie and when the run began."""
    parser.add_argument(
        "--artifacts-dir", type=Path, default=Path("artifacts"), help="where all artifacts lie (artifacts)"
    )
    parser.add_argument(
        "--started",
        type=float,
        metavar="EPOCH_S",
        help="when the run began, in seconds since 1970; wall_s counts from then instead of adding up the stages",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write summary.json and print the table.

    Raises:
        ArtifactError: there is no artifact yet, or one is damaged.
    """
    root: Path = arguments.artifacts_dir
    artifacts = read_artifacts(root)
    summary = summarize(artifacts)
    if arguments.started is not None:
        summary["wall_s"] = round(time.time() - arguments.started, 1)
    write_json(root / SUMMARY_FILE, summary)
    print("\n".join(table(summary)))
    for note in stale_notes(artifacts):
        print(f"note: {note}")
    print(f"All figures: {root / SUMMARY_FILE}. To try next:")
    print("\n".join(f"  {command}" for command in next_commands(root, artifacts, summary)))
    return 0


def read_artifacts(root: Path) -> dict[str, Artifact]:
    """Stage name -> its artifact, of every stage that has one in its default directory, in the pipeline's order.

    Raises:
        ArtifactNotFoundError: there is none at all.
        ArtifactError: one is damaged.
    """
    artifacts = {
        stage.name: load_artifact(root / stage.output_directory, stage.output_kind, verify="size")
        for stage in STAGES.values()
        if (root / stage.output_directory / ARTIFACT_FILE).is_file()
    }
    if not artifacts:
        raise ArtifactNotFoundError(
            f"artifacts {root}",
            expected="directories that mvqkd stages have written",
            got="none" if root.is_dir() else "no such directory",
            next_step="run `mvqkd demo`, or pass --artifacts-dir",
        )
    return artifacts


def summarize(artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """All figures by their fixed names; None where the stage has not run or does not measure it."""
    torch_rows, onnx_rows = _rows(artifacts.get("evaluate")), _rows(artifacts.get("export-onnx"))
    record = onnx_rows.get(_RECORD, {})
    data, teacher = _parts(artifacts, "prepare-data"), _parts(artifacts, "extract-teacher")
    quantizer, student = _parts(artifacts, "fit-quantizer"), _parts(artifacts, "train-student")
    decision, promotion = _parts(artifacts, "gate"), _parts(artifacts, "promote")
    stages = {name: artifact.wall_s for name, artifact in artifacts.items()}
    return {
        "wall_s": round(sum(stages.values()), 1),
        "stages": stages,
        "source": data.get("source"),
        "hours": data.get("hours"),
        "test_utterances": _report(artifacts.get("export-onnx")).get("num_utterances"),
        "test_words": _report(artifacts.get("export-onnx")).get("num_words"),
        "test_set_sha256": _report(artifacts.get("export-onnx")).get("test_set_sha256"),
        "teacher_id": teacher.get("teacher_id"),
        "teacher_layer": teacher.get("layer"),
        "teacher_wer": next((row["wer"] for row in torch_rows.values() if row["runtime"] == "teacher"), None),
        "quantizer_relative_error": quantizer.get("relative_error"),
        "bytes_per_teacher_frame": quantizer.get("bytes_per_frame"),
        "compression_ratio": quantizer.get("compression_ratio"),
        "objective": student.get("objective"),
        "student_parameters": student.get("num_parameters"),
        "student_wer_torch": torch_rows.get("torch/greedy", {}).get("wer"),
        "student_wer_onnx": record.get("wer"),
        "student_cer_onnx": record.get("cer"),
        "wer_interval_95": record.get("interval_95"),
        "wer_by_decoder": {name: row["wer"] for name, row in {**torch_rows, **onnx_rows}.items()},
        "rtf_onnx": _parts(artifacts, "export-onnx").get("rtf"),
        "bundle_bytes": _size(artifacts.get("export-onnx")),
        "decision": decision.get("decision"),
        "decision_reason": decision.get("reason"),
        "model_name": promotion.get("model_name"),
        "model_version": promotion.get("model_version"),
        "mlflow_run_id": promotion.get("mlflow_run_id"),
        "ids": {artifact.kind: artifact.id for artifact in artifacts.values()},
    }


def table(summary: Mapping[str, Any]) -> list[str]:
    """The summary for a person: a name and its value a line, aligned; what is unknown is left out."""
    hours = ", ".join(f"{value:.2f} h {split}" for split, value in (summary["hours"] or {}).items())
    interval = summary["wer_interval_95"]
    test = f"{summary['test_utterances']} utterances, {summary['test_words']} words"
    shown = {
        "data": _joined(summary["source"], hours),
        "teacher": _joined(
            summary["teacher_id"], _with(summary["teacher_layer"], "layer {}"), _percent(summary["teacher_wer"], "WER ")
        ),
        "quantizer": _joined(
            _with(summary["quantizer_relative_error"], "relative error {:.3f}"),
            _with(summary["bytes_per_teacher_frame"], "{} bytes a teacher frame"),
            _with(summary["compression_ratio"], "{:g} times smaller than float32"),
        ),
        "student": _joined(
            _with(summary["student_parameters"], "{:,} parameters"), _with(summary["objective"], "objective {}")
        ),
        "WER torch": _percent(summary["student_wer_torch"], "", " greedy"),
        "WER ONNX": _joined(
            _percent(summary["student_wer_onnx"], "", " greedy"),
            interval and "95 % interval {:.1f} to {:.1f} %".format(*(100 * bound for bound in interval)),
            summary["test_utterances"] and test,
        ),
        "other WERs": _joined(
            *(
                f"{name} {100 * wer:.1f} %"
                for name, wer in summary["wer_by_decoder"].items()
                if name not in ("torch/greedy", _RECORD, "teacher")
            )
        ),
        "speed": _joined(_with(summary["rtf_onnx"], "RTF {:.4f}"), _with(summary["bundle_bytes"], "bundle {:,} bytes")),
        "decision": _joined(summary["decision"], summary["decision_reason"]),
        "registry": _joined(
            _with(summary["model_version"], f"{summary['model_name']} version {{}}"),
            _with(summary["mlflow_run_id"], "MLflow run {}"),
        ),
        "time": _duration(summary["wall_s"]),
        "stages": _joined(*(f"{name}{_NO_BREAK}{_duration(seconds)}" for name, seconds in summary["stages"].items())),
    }
    width = max(len(name) for name in shown) + 2
    lines: list[str] = []
    for name, text in shown.items():
        lines += textwrap.wrap(
            text or "",
            _COLUMNS,
            initial_indent=name.ljust(width),
            subsequent_indent=" " * width,
            break_on_hyphens=False,
        )
    return [line.replace(_NO_BREAK, " ") for line in lines]


def stale_notes(artifacts: Mapping[str, Artifact]) -> Iterator[str]:
    """Artifacts that were made from another parent than the one that lies in its directory now."""
    by_kind = {artifact.kind: artifact for artifact in artifacts.values()}
    for name, artifact in artifacts.items():
        for kind, parent_id in artifact.parents.items():
            if kind in by_kind and by_kind[kind].id != parent_id:
                parent = by_kind[kind]
                yield (
                    f"{artifact.path} was made from {kind} {parent_id[:12]}, "
                    f"{parent.path} is {parent.short_id}: re-run `mvqkd {name}`"
                )


def next_commands(root: Path, artifacts: Mapping[str, Artifact], summary: Mapping[str, Any]) -> list[str]:
    """Commands that work as they are printed."""
    program = _program()
    audio = _test_audio(artifacts.get("prepare-data")) or "FILE.wav"
    bundle = "" if summary["decision"] == "promote" else f" --bundle {root / 'bundle'}"
    ui = "make ui" if Path("Makefile").is_file() else f"{program} ui"
    return [f"{program} transcribe{bundle} {audio}", f"{program} report", ui, f"{program} inspect {root / 'bundle'}"]


def _parts(artifacts: Mapping[str, Artifact], stage: str) -> dict[str, Any]:
    artifact = artifacts.get(stage)
    return {} if artifact is None else {**artifact.facts, **artifact.figures}


def _report(artifact: Artifact | None) -> dict[str, Any]:
    from mvqkd.promotion.reports import read_report

    return {} if artifact is None else read_report(artifact).model_dump(mode="json")


def _rows(artifact: Artifact | None) -> dict[str, dict[str, Any]]:
    """Rows of a WER report by ``runtime/decoder``; a teacher's row is just ``teacher``."""
    return {
        row["runtime"] if row["runtime"] == row["decoder"] else f"{row['runtime']}/{row['decoder']}": row
        for row in _report(artifact).get("rows", [])
    }


def _size(artifact: Artifact | None) -> int | None:
    return None if artifact is None else sum(entry["size_bytes"] for entry in artifact.files.values())


def _test_audio(data: Artifact | None) -> str | None:
    """Path of a test recording of some length, to be transcribed by way of trial."""
    if data is None or not (cuts := data.path / "cuts" / "test.jsonl.gz").is_file():
        return None
    try:
        with gzip.open(cuts, "rt", encoding="utf-8") as stream:
            rows = [json.loads(line) for line in stream]
        rows.sort(key=lambda row: (abs(row["duration"] - 4.0), row["id"]))
        path = data.path / rows[0]["recording"]["sources"][0]["source"]
    except (OSError, ValueError, LookupError, TypeError):
        return None  # a hint is not worth an error; prepare-data and evaluate complain of such cuts
    return str(path) if path.is_file() else None


def _program() -> str:
    """How to call this program from the present shell."""
    ours = Path(sys.executable).parent / "mvqkd"
    found = shutil.which("mvqkd")
    if found is not None and Path(found).absolute() == ours.absolute():
        return "mvqkd"
    try:
        return str(ours.relative_to(Path.cwd()))
    except ValueError:
        return str(ours)


def _joined(*parts: str | None) -> str | None:
    return ", ".join(part for part in parts if part) or None


def _with(value: Any, text: str) -> str | None:
    return None if value is None else text.format(value)


def _percent(share: float | None, before: str = "", after: str = "") -> str | None:
    return None if share is None else f"{before}{100 * share:.1f} %{after}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f}{_NO_BREAK}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}{_NO_BREAK}min{_NO_BREAK}{rest:02d}{_NO_BREAK}s"
