"""What lies in a bundle, and bundle.json, which says it to programs.

    offline/{encoder[.int8],decoder,joiner}.onnx     transducer of whole utterances
    streaming/{encoder[.int8],decoder,joiner}.onnx   the same weights, a chunk at a time
    ctc/model[.int8].onnx                            the CTC head on the same encoder
    tokens.txt                                       `symbol id` lines
    bpe.vocab                                        BPE only: pieces with scores, for hotwords
    {offline,streaming,ctc}.conf                     start sherpa-onnx's programs on a variant with --config
    bundle.json                                      this module
    README.md                                        the model card (``mvqkd.export.card``)
    parity.json                                      what was compared with torch and sherpa-onnx
    wer.json                                         the WER of record (``mvqkd.decode.report.WerReport``)

Nothing volatile is inside: equal students give equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvqkd.artifacts import Artifact, atomic_open, file_sha256, write_json
from mvqkd.config import ModelConfig
from mvqkd.data.features import NUM_MELS
from mvqkd.data.tokens import TOKENS_FILE
from mvqkd.decode.onnx_graphs import VARIANTS, Variant, existing_graph, graph_file, parts_of
from mvqkd.decode.report import WerReport
from mvqkd.decode.streaming import TAIL_FRAMES, StreamingRecognizer
from mvqkd.frames import FEATURE_RATE_HZ, SAMPLE_RATE_HZ, STUDENT_RATE_HZ, SUBSAMPLING_CONTEXT_FRAMES

BUNDLE_FILE, CARD_FILE, PARITY_FILE = "bundle.json", "README.md", "parity.json"
FORMAT = 2


@dataclass(frozen=True)
class BundleContents:
    """What the descriptions are made of."""

    student: Artifact
    data: Artifact
    model: ModelConfig
    vocab_size: int
    num_parameters: int
    opset: int
    report: WerReport
    parity: Mapping[str, Any]
    int8: bool
    streaming: StreamingRecognizer


def write_record(directory: Path, contents: BundleContents) -> dict[str, Any]:
    """Write the options for sherpa-onnx and bundle.json beside the graphs, tokens.txt, parity.json and wer.json.

    Returns:
        What bundle.json says.
    """
    write_sherpa_options(directory)
    described = bundle_record(directory, contents)
    write_json(directory / BUNDLE_FILE, described)
    return described


def write_sherpa_options(directory: Path) -> None:
    """Write ``VARIANT.conf``: with ``--config`` it starts sherpa-onnx's own programs in ``directory``."""
    for variant in VARIANTS:
        with atomic_open(directory / f"{variant}.conf") as stream:
            stream.writelines(f"{option}\n" for option in _sherpa_options(variant))


def bundle_record(directory: Path, contents: BundleContents) -> dict[str, Any]:
    """bundle.json: variants, how to compute features, lineage, scores and the digest of every other file."""
    report = contents.report
    variants = {
        variant: {
            "int8" if int8 else "float32": {
                part: existing_graph(directory, part, int8=int8, variant=variant).relative_to(directory).as_posix()
                for part in parts_of(variant)
            }
            for int8 in ([False, True] if contents.int8 else [False])
        }
        for variant in VARIANTS
    }
    streaming = contents.streaming
    files = sorted(path for path in directory.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {
        "format": FORMAT,
        "variants": variants,
        "streaming": {
            "chunk_frames": streaming.chunk_frames,
            "chunk_s": streaming.chunk_s,
            "latency_s": streaming.latency_s,
            "tail_s": float(TAIL_FRAMES / STUDENT_RATE_HZ),
        },
        "tokens": TOKENS_FILE,
        "vocab_size": contents.vocab_size,
        "token_type": contents.data.facts["token_type"],
        "context_size": contents.model.context_size,
        "opset": contents.opset,
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "features": {
            "type": "kaldi-fbank",
            "num_mels": NUM_MELS,
            "rate_hz": str(FEATURE_RATE_HZ),
            "low_freq_hz": 20,
            "high_freq_hz": -400,
            "dither": 0,
            "snip_edges": False,
            "window": "povey",
            "input_range": [-1, 1],
            "normalisation": "inside the encoder graph",
            "min_frames": SUBSAMPLING_CONTEXT_FRAMES,
        },
        "student_rate_hz": str(STUDENT_RATE_HZ),
        "num_parameters": contents.num_parameters,
        "text_normalizer": report.text_normalizer,
        "test_set": {
            "split": report.split,
            "sha256": report.test_set_sha256,
            "utterances": report.num_utterances,
            "words": report.num_words,
        },
        "wer": {row.name: row.wer for row in report.rows},
        "lineage": {
            contents.student.kind: contents.student.id,
            **contents.student.parents,
            contents.data.kind: contents.data.id,
        },
        "files": {
            path.relative_to(directory).as_posix(): {"sha256": file_sha256(path), "size_bytes": path.stat().st_size}
            for path in files
            if path.name not in (BUNDLE_FILE, CARD_FILE)
        },
    }


def _sherpa_options(variant: Variant) -> list[str]:
    option_of = {"model": "zipformer-ctc-model"}
    graphs = [(option_of.get(part, part), graph_file(part, variant=variant)) for part in parts_of(variant)]
    return [f"--{option}={value}" for option, value in (*graphs, ("tokens", TOKENS_FILE), ("num-threads", 1))]
