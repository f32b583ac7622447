"""What lies in a bundle beside the graphs: bundle.json for programs, README.md (the model card) for people.

    offline/{encoder,decoder,joiner}.onnx   float32 transducer
    offline/encoder.int8.onnx               quantised encoder
    tokens.txt                              `symbol id` lines
    bundle.json  README.md                  this module
    parity.json                             what was compared with torch and sherpa-onnx
    wer.json                                the WER of record (``mvqkd.decode.report.WerReport``)

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
from mvqkd.decode.onnx_runtime import OFFLINE, PARTS, graph_file
from mvqkd.decode.report import GREEDY, WerReport
from mvqkd.frames import FEATURE_RATE_HZ, SAMPLE_RATE_HZ, STUDENT_RATE_HZ, SUBSAMPLING_CONTEXT_FRAMES

BUNDLE_FILE, CARD_FILE, PARITY_FILE = "bundle.json", "README.md", "parity.json"
FORMAT = 1


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


def write_descriptions(directory: Path, contents: BundleContents) -> None:
    """Write bundle.json and README.md beside the graphs, tokens.txt, parity.json and wer.json in ``directory``."""
    described = bundle_record(directory, contents)
    write_json(directory / BUNDLE_FILE, described)
    with atomic_open(directory / CARD_FILE) as stream:
        stream.write(model_card(contents, described))


def bundle_record(directory: Path, contents: BundleContents) -> dict[str, Any]:
    """bundle.json: variants, how to compute features, lineage, scores and the digest of every other file."""
    report = contents.report
    variants = {"float32": {part: graph_file(part) for part in PARTS}}
    if contents.int8:
        variants["int8"] = {**variants["float32"], "encoder": graph_file("encoder", int8=True)}
    files = sorted(path for path in directory.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {
        "format": FORMAT,
        "variants": {OFFLINE: variants},
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
        "wer": {row.runtime: row.wer for row in report.rows},
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


def model_card(contents: BundleContents, described: Mapping[str, Any]) -> str:
    """README.md: how to run the bundle, how good it is, what it was made from, what it is not for."""
    report, parity = contents.report, contents.parity
    sizes = {name: entry["size_bytes"] / 1e6 for name, entry in described["files"].items()}
    scores = "\n".join(
        f"| {row.runtime} | {row.wer:.2%} | {row.interval_95[0]:.2%} .. {row.interval_95[1]:.2%} | {row.cer:.2%} "
        f"| {row.insertions} / {row.deletions} / {row.substitutions} |"
        for row in report.rows
    )
    lineage = "\n".join(f"| {kind} | `{artifact}` |" for kind, artifact in sorted(described["lineage"].items()))
    graphs = "\n".join(
        f"| `{name}` | {sizes[name]:.2f} MB |" for name in sorted(sizes) if name.startswith(f"{OFFLINE}/")
    )
    record = report.row(GREEDY, "onnxruntime")
    assert record is not None
    return f"""# Speech recognition bundle, student {contents.student.short_id}

An offline transducer for 16 kHz speech, {contents.num_parameters / 1e6:.2f} M parameters, {contents.vocab_size}
symbols ({contents.data.facts["token_type"]}). Word error rate of what is in this directory: **{record.wer:.2%}** on
the {report.num_utterances} utterances ({report.num_words} words) of the split `{report.split}`.

## Run it

With sherpa-onnx, in this directory, on a mono WAV file of any sampling rate (`pip install sherpa-onnx soundfile`):

```sh
python -c '{_SHERPA_PROGRAM}' FILE.wav
```

With sherpa-onnx's own program:

```sh
sherpa-onnx-offline --tokens=tokens.txt --encoder=offline/encoder.onnx --decoder=offline/decoder.onnx \\
  --joiner=offline/joiner.onnx --num-threads=1 FILE.wav
```

With mvqkd: `mvqkd transcribe --bundle . FILE.wav` (`--int8` for the quantised encoder).

| graph | size |
|---|---|
{graphs}

## How good it is

Greedy decoding in onnxruntime, one utterance at a time; texts normalised by `{report.text_normalizer}`; the interval is
a 95 % bootstrap over utterances.

| runtime | WER | 95 % interval | CER | ins / del / sub |
|---|---|---|---|---|
{scores}

Checked before it was written: every graph differs from the torch student by at most {parity["max_difference"]:g} on
{len(parity["cases"])} inputs, and unmodified sherpa-onnx {parity["sherpa"]["version"]} found the torch student's tokens
on {parity["sherpa"]["equal"]} of {parity["sherpa"]["utterances"]} test utterances (`parity.json`).

## What it was made from

Data: {contents.data.facts.get("source", "not stated")}; licence: {contents.data.facts.get("licence", "not stated")}.
Distillation objective: {contents.student.facts.get("objective", "not stated")}.

| artifact | id |
|---|---|
{lineage}

## Intended use and limits

Transcribes speech that is like its training data: that language, those speakers and channels. The score above says
nothing about others; measure on recordings of your own before relying on it. Silence and noise can give spurious
words. Recordings shorter than 70 ms have no frame to decode; long ones need memory that grows with the square of
their length, so cut them at pauses (`mvqkd transcribe` does).
"""


_SHERPA_PROGRAM = """
import sys, sherpa_onnx, soundfile
recognizer = sherpa_onnx.OfflineRecognizer.from_transducer(
    encoder="offline/encoder.onnx", decoder="offline/decoder.onnx", joiner="offline/joiner.onnx", tokens="tokens.txt")
samples, rate = soundfile.read(sys.argv[1], dtype="float32")
stream = recognizer.create_stream()
stream.accept_waveform(rate, samples)
recognizer.decode_stream(stream)
print(stream.result.text)
"""
