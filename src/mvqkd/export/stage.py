"""The stage export-onnx: graphs, proof of parity, the WER of what ships, one directory."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from mvqkd.artifacts import Artifact, PartialArtifact, atomic_open, load_artifact, write_json
from mvqkd.config import ExportOnnxConfig
from mvqkd.data.audio import load_audio
from mvqkd.data.features import log_mel
from mvqkd.data.tokens import TOKENS_FILE
from mvqkd.decode.onnx_graphs import VARIANTS
from mvqkd.decode.report import WerReport, build_report, row_figures, row_name
from mvqkd.decode.scored_split import ScoredSplit, load_scored_split
from mvqkd.decode.torch_runtime import TorchTransducer, load_transducer
from mvqkd.errors import ExportParityError
from mvqkd.export.bundle import CARD_FILE, PARITY_FILE, BundleContents, write_record
from mvqkd.export.card import model_card
from mvqkd.export.graphs import write_graphs
from mvqkd.export.parity import ParityCase, check_parity
from mvqkd.export.scoring import RECORD, Decoded, Recognizers, decode_split

# Student frames a chunk of the streaming graph where the student was trained on whole utterances: 640 ms.
_STREAMING_CHUNK_FRAMES = 16


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
        write_graphs(
            module,
            partial.path,
            opset=config.opset,
            chunk_frames=config.chunk_frames or module.config.chunk_frames or _STREAMING_CHUNK_FRAMES,
            lineage=lineage,
            int8=config.int8,
        )
        shutil.copyfile(student / TOKENS_FILE, partial.path / TOKENS_FILE)
        tokens.save_bpe_vocabulary(partial.path)
        recognizers = {
            int8: Recognizers.open(partial.path, int8=int8) for int8 in ([False, True] if config.int8 else [False])
        }
        cases = _prove_parity(config, reference, recognizers[False], scored)
        decoded = decode_split(reference, tokens, recognizers, scored, partial.path)
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
            streaming=recognizers[False].streaming,
        )
        described = write_record(partial.path, contents)
        with atomic_open(partial.path / CARD_FILE) as stream:
            stream.write(model_card(contents, described))
        return partial.commit(
            facts={
                "variants": list(VARIANTS),
                "precisions": ["float32", "int8"] if config.int8 else ["float32"],
                "chunk_frames": recognizers[False].streaming.chunk_frames,
                "vocab_size": module.vocab_size,
                "context_size": module.config.context_size,
                "text_normalizer": report.text_normalizer,
                "split": report.split,
                "test_set_sha256": report.test_set_sha256,
            },
            figures=_figures(report, decoded, scored, cases, partial.path),
        )


def _prove_parity(
    config: ExportOnnxConfig, reference: TorchTransducer, exported: Recognizers, scored: ScoredSplit
) -> list[ParityCase]:
    """Compare on the shortest, the middle and the longest utterance of the split."""
    by_duration = sorted(scored.cuts, key=lambda cut: (cut.duration, str(cut.id)))
    chosen = {str(cut.id): cut for cut in (by_duration[0], by_duration[len(by_duration) // 2], by_duration[-1])}
    return check_parity(
        reference,
        exported.offline,
        exported.streaming,
        exported.ctc,
        [log_mel(load_audio(cut)) for cut in chosen.values()],
        config.max_difference,
    )


def _require_agreement(config: ExportOnnxConfig, decoded: Decoded) -> None:
    for variant, agreement in decoded.agreement.items():
        if agreement.share >= config.min_token_agreement:
            continue
        first = agreement.disagreements[0] if agreement.disagreements else {"id": "none", "torch": "", "sherpa": ""}
        raise ExportParityError(
            f"sherpa-onnx {decoded.sherpa_version}, variant {variant}, "
            f"{agreement.num_compared} utterances of the split",
            expected=f"torch's greedy tokens on at least {config.min_token_agreement:.1%}",
            got=f"{agreement.share:.1%}; first other: {first['id']}, torch '{first['torch']}', "
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
            "min_token_agreement": config.min_token_agreement,
            "variants": {
                variant: {
                    "utterances": agreement.num_compared,
                    "equal": agreement.num_compared - len(agreement.disagreements),
                    "disagreements": agreement.disagreements,
                }
                for variant, agreement in decoded.agreement.items()
            },
        },
    }


def _report(decoded: Decoded, scored: ScoredSplit) -> WerReport:
    return build_report(
        test_set_sha256=scored.sha256,
        text_normalizer=scored.text_normalizer,
        split=scored.split,
        ids=scored.ids,
        refs=scored.refs,
        speakers=scored.speakers,
        hyps=decoded.texts,
    )


def _figures(
    report: WerReport, decoded: Decoded, scored: ScoredSplit, cases: Sequence[ParityCase], directory: Path
) -> dict[str, Any]:
    rtf = {row_name(*row): seconds / scored.duration_s for row, seconds in decoded.seconds.items()}
    record = report.row(*RECORD)
    assert record is not None
    return {
        **row_figures(record),
        "wer_onnx": record.wer,
        "rtf": rtf[record.name],
        "rtf_onnx": rtf[record.name],
        "rows": {row.name: {"wer": row.wer, "rtf": rtf[row.name]} for row in report.rows},
        "test_utterances": report.num_utterances,
        "test_words": report.num_words,
        "duration_s": round(scored.duration_s, 3),
        "sherpa_agreement": {variant: agreement.share for variant, agreement in decoded.agreement.items()},
        "max_difference": max(case.difference for case in cases),
        "difference": {
            part: max(case.difference for case in cases if case.part == part)
            for part in dict.fromkeys(case.part for case in cases)
        },
        "graph_bytes": {
            path.relative_to(directory).as_posix(): path.stat().st_size for path in sorted(directory.glob("*/*.onnx"))
        },
    }


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
