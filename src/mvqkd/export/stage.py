"""The stage export-onnx: graphs, proof of parity, the WER of what ships, one directory."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mvqkd.artifacts import Artifact, PartialArtifact, atomic_open, load_artifact, write_json
from mvqkd.config import ExportOnnxConfig
from mvqkd.data.audio import load_audio
from mvqkd.data.features import log_mel
from mvqkd.data.text import normalize_text
from mvqkd.data.tokens import TOKENS_FILE, Tokens
from mvqkd.decode.batching import pad_features
from mvqkd.decode.onnx_runtime import OnnxTransducer, graph_file
from mvqkd.decode.report import GREEDY, Runtime, WerReport, build_report, row_figures
from mvqkd.decode.scored_split import ScoredSplit, load_scored_split
from mvqkd.decode.search import greedy_search
from mvqkd.decode.torch_runtime import TorchTransducer, load_transducer
from mvqkd.errors import ExportParityError
from mvqkd.export.bundle import PARITY_FILE, BundleContents, write_descriptions
from mvqkd.export.graphs import export_offline
from mvqkd.export.parity import ParityCase, check_parity
from mvqkd.export.quantize import quantize_matmuls
from mvqkd.export.sherpa import open_sherpa
from mvqkd.frames import num_feature_frames, num_student_frames
from mvqkd.progress import track
from mvqkd.student.model import Student

FLOAT32: Runtime = "onnxruntime"
INT8: Runtime = "onnxruntime-int8"


@dataclass
class Decoded:
    """What every runtime made of the split, in the order of its cuts."""

    texts: dict[Runtime, list[str]]
    seconds: dict[Runtime, float]
    sherpa_version: str = ""
    num_compared: int = 0
    disagreements: list[dict[str, str]] = field(default_factory=list)

    @property
    def agreement(self) -> float:
        """Share of utterances on which sherpa-onnx and torch found the same tokens."""
        return 1 - len(self.disagreements) / self.num_compared if self.num_compared else 0.0


def export_onnx(config: ExportOnnxConfig, *, data: Path, student: Path, out: Path) -> Artifact:
    """Export a student, prove that the graphs compute what it computes, score them, write the bundle.

    Returns:
        onnx-bundle: see ``mvqkd.export.bundle``. ``figures["wer_onnx"]`` is the WER of record, ``figures["rtf_onnx"]``
        its real-time factor on one thread, one utterance at a time, features included.
    Raises:
        ExportParityError: a graph differs from torch, or sherpa-onnx from both; nothing is written.
        ArtifactError: an input is missing, corrupt, or the student was not made from this data.
        EmptyCutSetError: the data has no such split.
    """
    manifest = load_artifact(data, "cut-manifest")
    reference, tokens, student_artifact = load_transducer(student)
    module = reference.student
    student_artifact.require_parent(manifest)
    scored = load_scored_split(manifest, config.split)
    partial = PartialArtifact(
        out,
        "onnx-bundle",
        stage="export-onnx",
        config=config.model_dump(mode="json"),
        parents=[manifest, student_artifact],
    )
    with _nothing_left_behind(partial.path), _one_torch_thread():
        lineage = {student_artifact.kind: student_artifact.id, **student_artifact.parents}
        _write_graphs(module, config, lineage, partial.path)
        shutil.copyfile(student / TOKENS_FILE, partial.path / TOKENS_FILE)
        exported = {FLOAT32: OnnxTransducer(partial.path)}
        if config.int8:
            exported[INT8] = OnnxTransducer(partial.path, int8=True)
        cases = _prove_parity(config, reference, exported[FLOAT32], scored)
        decoded = _decode(reference, tokens, exported, scored, partial.path)
        _require_agreement(config, decoded)
        parity = _parity_record(config, cases, decoded)
        write_json(partial.path / PARITY_FILE, parity)
        report = _report(decoded, scored)
        report.save(partial.path)
        contents = BundleContents(
            student=student_artifact,
            data=manifest,
            model=module.config,
            vocab_size=module.vocab_size,
            num_parameters=module.num_parameters(),
            opset=config.opset,
            report=report,
            parity=parity,
            int8=config.int8,
        )
        write_descriptions(partial.path, contents)
        return partial.commit(
            facts={
                "variants": ["float32", "int8"] if config.int8 else ["float32"],
                "vocab_size": module.vocab_size,
                "context_size": module.config.context_size,
                "text_normalizer": report.text_normalizer,
                "split": report.split,
                "test_set_sha256": report.test_set_sha256,
            },
            figures=_figures(report, decoded, scored, cases, partial.path),
        )


def _write_graphs(student: Student, config: ExportOnnxConfig, lineage: Mapping[str, str], directory: Path) -> None:
    graphs = export_offline(student, opset=config.opset, lineage=lineage)
    files = {graph_file(part): graph for part, graph in graphs.items()}
    if config.int8:
        files[graph_file("encoder", int8=True)] = quantize_matmuls(graphs["encoder"])
    for name, graph in files.items():
        with atomic_open(directory / name, "wb") as stream:
            stream.write(graph.SerializeToString(deterministic=True))


def _prove_parity(
    config: ExportOnnxConfig, reference: TorchTransducer, exported: OnnxTransducer, scored: ScoredSplit
) -> list[ParityCase]:
    """Compare on the shortest, the middle and the longest utterance of the split."""
    by_duration = sorted(scored.cuts, key=lambda cut: (cut.duration, str(cut.id)))
    chosen = {str(cut.id): cut for cut in (by_duration[0], by_duration[len(by_duration) // 2], by_duration[-1])}
    return check_parity(
        reference, exported, [log_mel(load_audio(cut)) for cut in chosen.values()], config.max_difference
    )


def _decode(
    reference: TorchTransducer,
    tokens: Tokens,
    exported: Mapping[Runtime, OnnxTransducer],
    scored: ScoredSplit,
    directory: Path,
) -> Decoded:
    """Decode every utterance with each graph, torch and sherpa-onnx, one at a time."""
    decoded = Decoded({runtime: [] for runtime in exported}, dict.fromkeys(exported, 0.0))
    with contextlib.ExitStack() as stack:
        sherpa = stack.enter_context(open_sherpa(directory))
        # How the quantised graph scores is onnxruntime's row; here it must only load and run.
        others = [stack.enter_context(open_sherpa(directory, int8=True))] if INT8 in exported else []
        decoded.sherpa_version = sherpa.version
        for cut in track(scored.cuts, "export-onnx", total=len(scored.cuts), unit="cut"):
            samples = load_audio(cut)
            for runtime, transducer in exported.items():
                started = time.perf_counter()
                (text,) = transducer.transcribe([samples])
                decoded.seconds[runtime] += time.perf_counter() - started
                decoded.texts[runtime].append(normalize_text(text, scored.text_normalizer))
            if num_student_frames(num_feature_frames(len(samples))) == 0:
                continue
            (found,) = greedy_search(reference, *reference.encode(*pad_features([log_mel(samples)])))
            wanted = tuple(tokens.symbols[token] for token in found.tokens)
            got = sherpa.decode(samples)
            decoded.num_compared += 1
            if got.symbols != wanted:
                texts = {"torch": tokens.decode(found.tokens), "sherpa": got.text}
                decoded.disagreements.append({"id": str(cut.id), **texts})
            while others:
                others.pop().decode(samples)
    return decoded


def _require_agreement(config: ExportOnnxConfig, decoded: Decoded) -> None:
    if decoded.agreement >= config.min_token_agreement:
        return
    first = decoded.disagreements[0] if decoded.disagreements else {"id": "none", "torch": "", "sherpa": ""}
    raise ExportParityError(
        f"sherpa-onnx {decoded.sherpa_version}, {decoded.num_compared} utterances of the split",
        expected=f"torch's greedy tokens on at least {config.min_token_agreement:.1%}",
        got=f"{decoded.agreement:.1%}; first other: {first['id']}, torch '{first['torch']}', "
        f"sherpa-onnx '{first['sherpa']}'",
        next_step="a student that is unsure everywhere flips ties: train it further, or lower "
        "export-onnx.min_token_agreement",
    )


def _parity_record(config: ExportOnnxConfig, cases: Sequence[ParityCase], decoded: Decoded) -> dict[str, Any]:
    """parity.json. Measured differences are figures of the artifact: they vary with the processor, ids must not."""
    return {
        "ok": True,
        "max_difference": config.max_difference,
        "cases": [{"part": case.part, "input": case.input, "shape": list(case.shape)} for case in cases],
        "sherpa": {
            "version": decoded.sherpa_version,
            "utterances": decoded.num_compared,
            "equal": decoded.num_compared - len(decoded.disagreements),
            "min_token_agreement": config.min_token_agreement,
            "disagreements": decoded.disagreements,
        },
    }


def _report(decoded: Decoded, scored: ScoredSplit) -> WerReport:
    return build_report(
        test_set_sha256=scored.sha256,
        text_normalizer=scored.text_normalizer,
        split=scored.split,
        ids=scored.ids,
        refs=scored.refs,
        hyps={(GREEDY, runtime): texts for runtime, texts in decoded.texts.items()},
    )


def _figures(
    report: WerReport, decoded: Decoded, scored: ScoredSplit, cases: Sequence[ParityCase], directory: Path
) -> dict[str, Any]:
    rows = {row.runtime: row_figures(row) for row in report.rows}
    rtf = {runtime: seconds / scored.duration_s for runtime, seconds in decoded.seconds.items()}
    figures = {
        **rows[FLOAT32],
        "wer_onnx": rows[FLOAT32]["wer"],
        "rtf": rtf[FLOAT32],
        "rtf_onnx": rtf[FLOAT32],
        "test_utterances": report.num_utterances,
        "test_words": report.num_words,
        "duration_s": round(scored.duration_s, 3),
        "sherpa_agreement": decoded.agreement,
        "max_difference": max(case.difference for case in cases),
        "difference": {
            part: max(case.difference for case in cases if case.part == part)
            for part in dict.fromkeys(case.part for case in cases)
        },
        "encoder_bytes": (directory / graph_file("encoder")).stat().st_size,
    }
    if INT8 in rows:
        figures |= {
            "wer_onnx_int8": rows[INT8]["wer"],
            "rtf_onnx_int8": rtf[INT8],
            "encoder_bytes_int8": (directory / graph_file("encoder", int8=True)).stat().st_size,
        }
    return figures


@contextlib.contextmanager
def _nothing_left_behind(directory: Path) -> Iterator[None]:
    """Start without what a killed run left; when the block fails, leave no graphs around under any name."""
    for path in directory.iterdir():
        if not path.name.startswith("."):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    try:
        yield
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


@contextlib.contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Compute on one thread, as the bundle's own figures are; put the caller's setting back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
