"""A small run with a real corpus, sample, quantizer and store behind it, and texts that a test chooses."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvqkd.artifacts import Artifact, PartialArtifact, write_json
from mvqkd.codebook.encode import encode_with_teacher
from mvqkd.config import EncodeCiConfig, ExtractTeacherConfig, FitQuantizerConfig, GateConfig, PrepareDataConfig
from mvqkd.data.cuts import load_cuts
from mvqkd.data.prepare import prepare_data
from mvqkd.decode.report import Runtime, build_report
from mvqkd.promotion.stage import gate
from mvqkd.quantizer.fit_stage import fit_quantizer
from mvqkd.teacher.extract import extract_with_teacher
from mvqkd.testing.corpus import make_corpus
from mvqkd.testing.teacher import TinyTeacher

Hear = Callable[[str], str]


@dataclass(frozen=True)
class Made:
    """Artifacts from the corpus to the store of indexes, and the corpus itself."""

    corpus: Path
    data: Artifact
    embeddings: Artifact
    quantizer: Artifact
    indexes: Artifact
    teacher: TinyTeacher


def make_upstream(root: Path, *, num_utterances: int = 90) -> Made:
    """Run the stages up to encode-ci on a synthetic corpus, with a tiny teacher."""
    corpus = make_corpus(root / "corpus", num_utterances)
    data = prepare_data(PrepareDataConfig(source="manifest", manifest=str(corpus)), out=root / "data")
    teacher = TinyTeacher()
    embeddings = extract_with_teacher(
        teacher, ExtractTeacherConfig(num_frames=4000), data=data, out=root / "teacher-embeddings"
    )
    fitting = FitQuantizerConfig(
        num_codebooks=2,
        codebook_size=16,
        phase_1_steps=30,
        phase_2_steps=0,
        batch_size=128,
        evaluate_every=10,
        held_out_share=0.3,
    )
    quantizer = fit_quantizer(fitting, teacher_embeddings=embeddings.path, out=root / "quantizer")
    indexes = encode_with_teacher(
        teacher,
        EncodeCiConfig(speeds=[1.0, 0.9]),
        data=data,
        teacher_embeddings=embeddings,
        quantizer=quantizer,
        out=root / "codebook-indexes",
    )
    return Made(corpus, data, embeddings, quantizer, indexes, teacher)


def make_student(root: Path, made: Made, *, objective: str = "mvq", rows: int = 30) -> Artifact:
    """A student-checkpoint with a history; no student is in it."""
    distilled = objective == "mvq"
    parents = [made.data, made.quantizer, made.indexes] if distilled else [made.data]
    history = [
        {"step": 20 * n, "epoch": n, "loss": 9 / n, "transducer_loss": 3 / n, "ctc_loss": 2 / n}
        | {"learning_rate": 1e-3 / n, "gradient_norm": 1.0 + n % 3}
        | ({"distillation_loss": 3.6 - 0.05 * n} if distilled else {})
        for n in range(1, rows + 1)
    ]
    return write_artifact(
        root / "student",
        "student-checkpoint",
        "train-student",
        parents,
        {"history.jsonl": "".join(json.dumps(row) + "\n" for row in history)},
        facts={"objective": objective},
        figures={"num_parameters": 1_234_567, "num_steps": 20 * rows, "final_distillation_loss": 2.6}
        | ({"distillation_chance_level": 2.772588722239781} if distilled else {}),
    )


def make_bundle(
    root: Path,
    made: Made,
    student: Artifact,
    hear: Mapping[tuple[str, Runtime], Hear],
    name: str = "bundle",
    **more: Any,
) -> Artifact:
    """An onnx-bundle whose report has what each ``hear`` makes of the references; no graph in it works."""
    report = scored_texts(made.data, hear, more.get("ids"))
    report.save(scratch := root / f"{name}-report")
    lineage = {student.kind: student.id, **student.parents}
    return write_artifact(
        root / name,
        "onnx-bundle",
        "export-onnx",
        [made.data, student],
        {
            "offline/encoder.onnx": f"{name} " * 200,
            "offline/encoder.int8.onnx": f"{name} " * 50,
            "offline/decoder.onnx": "decoder",
            "wer.json": (scratch / "wer.json").read_text(encoding="utf-8"),
            "parity.json": json.dumps({"ok": True}),
            "bundle.json": json.dumps({"lineage": lineage, "text_normalizer": "upper-ascii-1"}),
        },
        config={"max_difference": 0.001, "split": "test"},
        facts={"chunk_frames": 8},
        figures={
            "rtf": 0.02,
            "rows": {row.name: {"rtf": 0.02, "wer": row.wer} for row in report.rows},
            "difference": {"encoder": 1.5e-6},
            "sherpa_agreement": {"offline": 1.0},
        },
    )


def make_wer_report(root: Path, made: Made, student: Artifact, hear: Mapping[tuple[str, Runtime], Hear]) -> Artifact:
    """A wer-report of the student in torch."""
    report = scored_texts(made.data, hear)
    report.save(scratch := root / "wer-scratch")
    return write_artifact(
        root / "wer",
        "wer-report",
        "evaluate",
        [made.data, student, made.embeddings],
        {"wer.json": (scratch / "wer.json").read_text(encoding="utf-8")},
        facts={"teacher_id": made.teacher.id},
        figures={"rows": {row.decoder: {"rtf": 0.05, "chunk_ms": None} for row in report.rows}},
    )


def make_decision(root: Path, by_kind: Mapping[str, Artifact], champion: Artifact | None = None) -> Artifact:
    """What the gate says of these artifacts."""
    quantizer = by_kind.get("quantizer")
    return gate(
        GateConfig(min_test_utterances=1, max_wer=10.0, max_quantizer_error=10.0),
        bundle=by_kind["onnx-bundle"].path,
        wer_report=by_kind["wer-report"].path,
        quantizer=None if quantizer is None else quantizer.path,
        champion=None if champion is None else champion.path,
        out=root / "decision",
    )


def make_run(root: Path, made: Made, *, heard: Hear, champion_heard: Hear | None = None, objective: str = "mvq") -> Run:
    """A whole run: by kind, with the gate's decision, and the champion that it was judged against."""
    student = make_student(root, made, objective=objective)
    champion = None
    if champion_heard is not None:
        old = make_student(root / "old", made, objective="none")
        champion = make_bundle(root / "old", made, old, {("greedy", "onnxruntime"): champion_heard}, "champion")
    rows: dict[tuple[str, Runtime], Hear] = {
        ("greedy", "onnxruntime"): heard,
        ("greedy", "onnxruntime-streaming"): heard,
        ("greedy", "onnxruntime-int8"): heard,
    }
    by_kind = {
        artifact.kind: artifact
        for artifact in (
            made.data,
            *((made.embeddings, made.quantizer, made.indexes) if objective == "mvq" else ()),
            student,
            make_wer_report(root, made, student, {("greedy", "torch"): heard, ("teacher", "teacher"): str}),
            make_bundle(root, made, student, rows),
        )
    }
    by_kind["promotion-decision"] = make_decision(root, by_kind, champion)
    return Run(by_kind, champion)


@dataclass(frozen=True)
class Run:
    """Arguments of ``run_report``."""

    artifacts: dict[str, Artifact]
    champion: Artifact | None


def scored_texts(data: Artifact, hear: Mapping[tuple[str, Runtime], Hear], ids: Sequence[str] | None = None) -> Any:
    """A WER report of the test split, each row what its ``hear`` makes of a reference."""
    cuts = list(load_cuts(data, "test"))
    refs = [" ".join(segment.text for segment in cut.supervisions) for cut in cuts]
    return build_report(
        test_set_sha256=data.facts["test_set_sha256"]["test"],
        text_normalizer="upper-ascii-1",
        split="test",
        ids=list(ids) if ids is not None else [cut.id for cut in cuts],
        refs=refs,
        hyps={key: [listen(ref) for ref in refs] for key, listen in hear.items()},
        speakers=[cut.supervisions[0].speaker for cut in cuts],
        bootstrap_samples=100,
    )


def write_artifact(
    out: Path,
    kind: str,
    stage: str,
    parents: list[Artifact],
    files: Mapping[str, str],
    *,
    facts: Mapping[str, Any],
    figures: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
) -> Artifact:
    partial = PartialArtifact(out, kind, stage=stage, config=config or {"some_field": 1}, parents=parents)
    for name, text in files.items():
        (partial.path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".json"):
            write_json(partial.path / name, json.loads(text))
        else:
            (partial.path / name).write_text(text, encoding="utf-8")
    return partial.commit(facts=facts, figures=figures)
