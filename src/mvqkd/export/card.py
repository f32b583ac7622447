"""The model card of a bundle: how to run it, how good it is, what it was made from, what it is not for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mvqkd.data.tokens import BPE_VOCAB_FILE
from mvqkd.decode.onnx_graphs import VARIANTS, graph_file, parts_of
from mvqkd.decode.report import GREEDY, WerReport
from mvqkd.export.bundle import BundleContents


def model_card(contents: BundleContents, described: Mapping[str, Any]) -> str:
    """README.md: how to run the bundle, how good it is, what it was made from, what it is not for."""
    report, streaming = contents.report, contents.streaming
    record = report.row(GREEDY, "onnxruntime")
    assert record is not None
    facts = {**contents.data.facts, **contents.student.facts}
    chunk_ms = round(1000 * streaming.chunk_s)
    # sherpa-onnx decodes whole chunks alone: this much silence brings out the last word wherever it falls.
    tail_s = streaming.chunk_s + 0.5
    return f"""# Speech recognition bundle, student {contents.student.short_id}

A transducer for 16 kHz speech, {contents.num_parameters / 1e6:.2f} M parameters, {contents.vocab_size}
symbols ({facts["token_type"]}): `offline/` for whole utterances, `streaming/` in chunks of {chunk_ms} ms, and `ctc/`,
the CTC head on the same encoder. Word error rate of the offline transducer: **{record.wer:.2%}** on the
{report.num_utterances} utterances ({report.num_words} words) of the split `{report.split}`.

## Run it

With sherpa-onnx's own programs (`pip install sherpa-onnx sherpa-onnx-bin`), in this directory, on a mono WAV file of
16-bit samples:

```sh
sherpa-onnx-offline --config=offline.conf FILE.wav
```
```sh
sherpa-onnx --config=streaming.conf FILE.wav
```
```sh
sherpa-onnx-offline --config=ctc.conf FILE.wav
```

With sherpa-onnx in Python (`pip install sherpa-onnx soundfile`), on a WAV file of any sampling rate:

```sh
python -c '{_OFFLINE_PROGRAM}' FILE.wav
```
```sh
python -c '{_STREAMING_PROGRAM.replace("TAIL", f"{tail_s:.2f}")}' FILE.wav
```

A program of yours that streams should send {tail_s:.2f} s of silence after the last word: a chunk is decoded when it is
whole. With mvqkd: `mvqkd transcribe --bundle . FILE.wav`, and `--stream` or `--int8` with it.

{_hotword_advice(facts["token_type"])}

| graph | float32 | int8 |
|---|---|---|
{_graph_rows(described)}

Quantised are the weights of matrix products, a scale for each output channel; with an int8 encoder go the float32
decoder and joiner, which are small. Those of `offline/` and `streaming/` are the same files.

## How good it is

One utterance at a time on the split `{report.split}`; texts normalised by `{report.text_normalizer}`; the interval is a
95 % bootstrap over utterances. How fast: `rtf` in the figures of `artifact.json`, on the machine of the export.

| runtime and decoder | WER | 95 % interval | CER | ins / del / sub |
|---|---|---|---|---|
{_score_rows(report)}

{_parity_sentence(contents.parity)}

## What it was made from

Data: {facts.get("source", "not stated")}; licence: {facts.get("licence", "not stated")}.
Distillation objective: {facts.get("objective", "not stated")}; teacher: {_teacher(facts)}.

| artifact | id |
|---|---|
{_lineage_rows(described)}

## Intended use and limits

Transcribes speech that is like its training data: that language, those speakers and channels. The scores above say
nothing about others; measure on recordings of your own before relying on it. Silence and noise can give spurious
words. Recordings shorter than 70 ms have no frame to decode; offline, long ones need memory that grows with the square
of their length, so cut them at pauses (`mvqkd transcribe` does) or stream them. Licences of data and teacher bind what
is made from them: read them before you ship it.
"""


def _teacher(facts: Mapping[str, Any]) -> str:
    if "teacher_id" not in facts:
        return "none"
    return (
        f"{facts['teacher_id']}, layer {facts.get('teacher_layer', 'not stated')}; "
        f"licence of its weights: {facts.get('teacher_licence', 'not stated')}"
    )


def _hotword_advice(token_type: str) -> str:
    by_characters = token_type == "char"
    unit = "cjkchar" if by_characters else f"bpe --bpe-vocab={BPE_VOCAB_FILE}"
    spelling = "spelt with spaces and ▁ between words, as in `M A I N ▁ S T R E E T`, " if by_characters else ""
    return f"""Hotwords, one a line in a file, {spelling}need
`--decoding-method=modified_beam_search --modeling-unit={unit} --hotwords-file=HOTWORDS.txt`."""


def _graph_rows(described: Mapping[str, Any]) -> str:
    def size(name: str) -> str:
        entry = described["files"].get(name)
        return f"{entry['size_bytes'] / 1e6:.2f} MB" if entry else "-"

    return "\n".join(
        f"| `{variant}/{part}` | {size(graph_file(part, variant=variant))} "
        f"| {size(graph_file(part, int8=True, variant=variant))} |"
        for variant in VARIANTS
        for part in parts_of(variant)
    )


def _score_rows(report: WerReport) -> str:
    return "\n".join(
        f"| {row.name} | {row.wer:.2%} | {row.interval_95[0]:.2%} .. {row.interval_95[1]:.2%} | {row.cer:.2%} "
        f"| {row.insertions} / {row.deletions} / {row.substitutions} |"
        for row in report.rows
    )


def _parity_sentence(parity: Mapping[str, Any]) -> str:
    sherpa = parity["sherpa"]
    agreement = ", ".join(
        f"{variant} {counts['equal']} of {counts['utterances']}" for variant, counts in sherpa["variants"].items()
    )
    return f"""Checked before it was written: every float32 graph differs from the torch student by at most
{parity["max_difference"]:g} on {len(parity["cases"])} inputs, chunk by chunk as on whole utterances; unmodified
sherpa-onnx {sherpa["version"]} found the torch student's tokens on these test utterances: {agreement}
(`parity.json`)."""


def _lineage_rows(described: Mapping[str, Any]) -> str:
    return "\n".join(f"| {kind} | `{artifact}` |" for kind, artifact in sorted(described["lineage"].items()))


_OFFLINE_PROGRAM = """
import sys, sherpa_onnx, soundfile
recognizer = sherpa_onnx.OfflineRecognizer.from_transducer(
    encoder="offline/encoder.onnx", decoder="offline/decoder.onnx", joiner="offline/joiner.onnx", tokens="tokens.txt")
samples, rate = soundfile.read(sys.argv[1], dtype="float32")
stream = recognizer.create_stream()
stream.accept_waveform(rate, samples)
recognizer.decode_stream(stream)
print(stream.result.text)
"""
_STREAMING_PROGRAM = """
import sys, sherpa_onnx, soundfile
recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
    encoder="streaming/encoder.onnx", decoder="streaming/decoder.onnx", joiner="streaming/joiner.onnx",
    tokens="tokens.txt", num_threads=1)
samples, rate = soundfile.read(sys.argv[1], dtype="float32")
stream = recognizer.create_stream()
stream.accept_waveform(rate, samples)
stream.accept_waveform(rate, [0.0] * round(TAIL * rate))
stream.input_finished()
while recognizer.is_ready(stream):
    recognizer.decode_stream(stream)
print(recognizer.get_result(stream))
"""
