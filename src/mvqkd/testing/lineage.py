"""A whole lineage of small hand-made artifacts, for tests of what only reads artifacts: gate, registry, reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvqkd.artifacts import Artifact, PartialArtifact, write_json
from mvqkd.config import (
    EncodeCiConfig,
    EvaluateConfig,
    ExportOnnxConfig,
    ExtractTeacherConfig,
    FitQuantizerConfig,
    PrepareDataConfig,
    Section,
    TrainStudentConfig,
)

_WORDS = 1000
_VOCABULARY = ("ONE", "TWO", "THREE", "FOUR", "FIVE")
_WRONG_WORD = "OOPS"


@dataclass(frozen=True)
class Lineage:
    """Artifacts from cut-manifest to onnx-bundle, made from one another; the last three of a student without
    distillation (``objective`` none) have no teacher above them."""

    root: Path
    data: Artifact
    teacher_embeddings: Artifact
    quantizer: Artifact
    codebook_indexes: Artifact
    student: Artifact
    wer_report: Artifact
    bundle: Artifact


def make_lineage(
    root: Path,
    *,
    wer: float | None = 0.30,
    torch_wer: float = 0.30,
    num_utterances: int = 112,
    test_set: str = "a" * 64,
    text_normalizer: str = "upper-ascii-1",
    parity_ok: bool = True,
    relative_error: float = 0.31,
    objective: str = "mvq",
    variant: str = "one",
    history_rows: int = 6,
    num_speakers: int = 0,
    streaming_wer: float | None = None,
    latency_s: float = 0.36,
    graph_bytes: int = 1000,
    rtf: float = 0.02,
) -> Lineage:
    """Write the artifacts of one student below ``root``, in the default directories.

    Args:
        wer: of the ONNX bundle; None leaves its row out of the report. The texts have as many errors, spread evenly:
            of two lineages the one with the lower WER is better or equal on every utterance.
        variant: enters the student's bytes, so that two variants have different ids.
        history_rows: rows of the student's training history.
        num_speakers: utterances name one of so many speakers in turn; 0: none.
        streaming_wer: of the bundle's graphs that stream, which have that latency; None: there are none.
        graph_bytes: size of the bundle's only graph.
    """
    splits, hours = {"train": 400, "test": num_utterances}, {"train": 0.3, "test": 0.1}
    data = _write(
        root / "data",
        "cut-manifest",
        PrepareDataConfig(),
        {"tokens.txt": "<blk> 0\n▁ 1\nA 2\n"},
        facts={
            "splits": splits,
            "hours": hours,
            "source": "asterisk",
            "vocab_size": 3,
            "text_normalizer": text_normalizer,
            "test_set_sha256": {"train": "f" * 64, "test": test_set},
        },
        figures={"rejected": 2},
    )
    teacher = {"teacher_id": "whisper-tiny.en-0123456789ab", "layer": 3, "rate_hz": "50/1"}
    embeddings = _write(
        root / "teacher-embeddings",
        "teacher-embeddings",
        ExtractTeacherConfig(),
        {"embeddings-00000.safetensors": "not really"},
        [data],
        facts={**teacher, "dim": 384, "num_frames": 40_000},
    )
    quantizer = _write(
        root / "quantizer",
        "quantizer",
        FitQuantizerConfig(),
        {"quantizer.safetensors": f"not really {relative_error}"},
        [embeddings],
        facts={**teacher, "dim": 384, "num_codebooks": 8, "codebook_size": 256, "bytes_per_frame": 8},
        figures={"relative_error": relative_error, "compression_ratio": 192.0, "entropy": [5.1, 5.2, 5.3, 5.4]},
    )
    indexes = _write(
        root / "codebook-indexes",
        "codebook-indexes",
        EncodeCiConfig(),
        {"shard-00000.npy": "not really"},
        [data, embeddings, quantizer],
        facts={**teacher, "quantizer_id": quantizer.id, "num_codebooks": 8, "codebook_size": 256},
        figures={"num_frames": 216_000},
    )
    distilled = objective == "mvq"
    student = _write(
        root / "student",
        "student-checkpoint",
        TrainStudentConfig.model_validate({"objective": objective}),
        {"student.safetensors": f"not really {variant}", "history.jsonl": _history(history_rows)},
        [data, quantizer, indexes] if distilled else [data],
        facts={"objective": objective},
        figures={"num_parameters": 1_234_567, "final_loss": 1.5, "audio_s_per_s": 60.0},
    )
    torch_rows = {("greedy", "torch"): torch_wer, ("modified_beam_search", "torch"): torch_wer - 0.01}
    if distilled:
        torch_rows["teacher", "teacher"] = 0.033
    onnx_rows = {} if wer is None else {("greedy", "onnxruntime"): wer}
    variants = {"offline": {"float32": {"encoder": "encoder.onnx"}}}
    if streaming_wer is not None:
        onnx_rows["greedy", "onnxruntime-streaming"] = streaming_wer
        variants["streaming"] = variants["offline"]
    report = {
        "test_set_sha256": test_set,
        "text_normalizer": text_normalizer,
        "split": "test",
        "num_utterances": num_utterances,
    }
    wer_report = _write(
        root / "wer",
        "wer-report",
        EvaluateConfig(),
        {"wer.json": make_report(report, torch_rows, num_speakers)},
        [data, student, embeddings] if distilled else [data, student],
        figures={"wer": torch_wer, "rtf": 0.05},
    )
    bundle = _write(
        root / "bundle",
        "onnx-bundle",
        ExportOnnxConfig(),
        {
            "encoder.onnx": f"not really {variant} ".ljust(graph_bytes, "."),
            "tokens.txt": "<blk> 0\n",
            "wer.json": make_report(report, onnx_rows, num_speakers),
            "parity.json": json.dumps({"ok": parity_ok, "max_difference": 1e-5}),
            "bundle.json": json.dumps(
                {
                    "lineage": {student.kind: student.id, **student.parents},
                    "variants": variants,
                    "streaming": {} if streaming_wer is None else {"latency_s": latency_s},
                }
            ),
        },
        [data, student],
        figures={"rtf": rtf},
    )
    return Lineage(root, data, embeddings, quantizer, indexes, student, wer_report, bundle)


def make_report(head: Mapping[str, Any], rows: Mapping[tuple[str, str], float], num_speakers: int = 0) -> str:
    """wer.json on a thousand words, with texts whose errors give those WERs.

    Args:
        head: the report's fields beside words, rows and utterances; ``num_utterances`` among them.
        rows: (decoder, runtime) -> WER.
    """
    names = {key: key[1] if key[0] == key[1] else f"{key[1]}/{key[0]}" for key in rows}
    count = head["num_utterances"]
    words = _spread(_WORDS, count)
    errors = {key: _spread(round(_WORDS * wer), count) for key, wer in rows.items()}
    records = []
    for (decoder, runtime), wer in rows.items():
        pairs = list(zip(words, errors[decoder, runtime], strict=True))
        wrong = sum(min(pair) for pair in pairs)
        inserted = sum(max(0, number - length) for length, number in pairs)
        records.append(
            {
                "name": names[decoder, runtime],
                "decoder": decoder,
                "runtime": runtime,
                "wer": (wrong + inserted) / _WORDS,
                "cer": (wrong + inserted) / _WORDS / 2,
                "ins": inserted,
                "del": 0,
                "sub": wrong,
                "words": _WORDS,
                "interval_95": [max(0.0, wer - 0.03), wer + 0.03],
                "rtf": None,
                "decode_s": None,
            }
        )
    utterances = [
        {
            "id": f"utterance-{i:04}",
            "ref": _text(words[i], 0),
            "hyp": {names[key]: _text(words[i], errors[key][i]) for key in rows},
            "speaker": f"speaker-{i % num_speakers:02}" if num_speakers else None,
        }
        for i in range(count)
    ]
    return json.dumps({**head, "num_words": _WORDS, "rows": records, "utterances": utterances})


def _spread(amount: int, parts: int) -> list[int]:
    """Whole numbers that add up to ``amount`` and grow with it, each by itself."""
    return [amount // parts + (part < amount % parts) for part in range(parts)]


def _text(words: int, errors: int) -> str:
    """So many words, of which the first are wrong; what is left of the errors is inserted."""
    right = [_VOCABULARY[position % len(_VOCABULARY)] for position in range(words)]
    return " ".join([_WRONG_WORD] * errors + right[min(errors, words) :])


def _history(rows: int) -> str:
    lines = [
        {"step": 20 * i, "epoch": i // 3, "loss": 9.0 / i, "ctc_loss": 4.0 / i, "learning_rate": 0.002}
        for i in range(1, rows + 1)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def _write(
    out: Path,
    kind: str,
    config: Section,
    files: dict[str, str],
    parents: list[Artifact] | None = None,
    *,
    facts: dict[str, Any] | None = None,
    figures: dict[str, Any] | None = None,
) -> Artifact:
    partial = PartialArtifact(
        out, kind, stage=config.section, config=config.model_dump(mode="json"), parents=parents or []
    )
    for name, text in files.items():
        if name.endswith(".json"):
            write_json(partial.path / name, json.loads(text))
        else:
            (partial.path / name).write_text(text, encoding="utf-8")
    return partial.commit(facts=facts, figures=figures)
