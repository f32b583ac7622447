"""The systems that are compared, each behind one of two small interfaces; imported inside a worker.

A module-level import here would count in every system's memory and loading time, so each class imports what it needs.
The peers are used as their own documentation does, with one thread and greedy search.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Samples = Any  # float32 (num_samples,), 16 kHz, one channel, in [-1, 1]
RATE_HZ = 16_000


class Offline(Protocol):
    """Hears an utterance whole."""

    def transcribe(self, samples: Samples) -> str: ...


class Streaming(Protocol):
    """Hears blocks as they come; ``feed`` and ``finish`` yield the text after each piece of work, the last one too."""

    def start(self) -> None: ...
    def feed(self, block: Samples) -> Iterator[str]: ...
    def finish(self) -> Iterator[str]: ...
    def first_token_s(self) -> float | None:
        """Where in the audio the system itself places the first token of the present text."""


def time_parts(runtime: Any) -> dict[str, float]:
    """Seconds that each graph of one of our runtimes runs from now on; two clock readings a call are all it costs."""
    seconds: dict[str, float] = {}
    run = runtime.run

    def timed(part: str, *inputs: Any) -> Any:
        started = time.perf_counter()
        outputs = run(part, *inputs)
        seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - started
        return outputs

    runtime.run = timed
    return seconds


class OursOffline:
    """``OnnxTransducer`` of the bundle, greedy."""

    def __init__(self, bundle: str, int8: bool) -> None:
        from mvqkd.decode.onnx_runtime import OnnxTransducer

        self._runtime = OnnxTransducer(bundle, num_threads=1, int8=int8)
        self.parts_s = time_parts(self._runtime)

    def transcribe(self, samples: Samples) -> str:
        return self._runtime.transcribe([samples])[0]


class OursCtc:
    """The CTC graph of the bundle, best path."""

    def __init__(self, bundle: str, int8: bool) -> None:
        from mvqkd.decode.onnx_ctc import OnnxCtc

        self._runtime = OnnxCtc(bundle, num_threads=1, int8=int8)
        self.parts_s = time_parts(self._runtime)

    def transcribe(self, samples: Samples) -> str:
        return self._runtime.transcribe(samples)


class OursStreaming:
    """``StreamingRecognizer`` of the bundle."""

    def __init__(self, bundle: str, int8: bool) -> None:
        from mvqkd.decode.streaming import StreamingRecognizer

        self._recognizer = StreamingRecognizer(bundle, num_threads=1, int8=int8)
        self.parts_s = time_parts(self._recognizer)

    def start(self) -> None:
        self._stream = self._recognizer.open_stream()

    def feed(self, block: Samples) -> Iterator[str]:
        self._stream.accept(block)
        yield from self._advance()

    def finish(self) -> Iterator[str]:
        self._stream.finish()
        yield from self._advance()

    def first_token_s(self) -> float | None:
        times = self._stream.result.times_s
        return float(times[0]) if times else None

    def _advance(self) -> Iterator[str]:
        while self._recognizer.decode([self._stream]):
            yield self._stream.result.text
        yield self._stream.result.text


class SherpaOffline:
    """Unmodified sherpa-onnx with the offline transducer or the CTC graph."""

    def __init__(self, graphs: dict[str, str], tokens: str) -> None:
        import sherpa_onnx

        make = sherpa_onnx.OfflineRecognizer
        build: Callable[..., Any] = make.from_zipformer_ctc if "model" in graphs else make.from_transducer
        self._recognizer = build(**graphs, tokens=tokens, num_threads=1)

    def transcribe(self, samples: Samples) -> str:
        stream = self._recognizer.create_stream()
        stream.accept_waveform(RATE_HZ, samples)
        self._recognizer.decode_stream(stream)
        return str(stream.result.text)


class SherpaStreaming:
    """Unmodified sherpa-onnx with the streaming transducer.

    It decodes whole chunks only, so a stream is given ``tail_s`` of silence after the last word for that to come out.
    """

    def __init__(self, graphs: dict[str, str], tokens: str, tail_s: float) -> None:
        import sherpa_onnx

        self._tail = np.zeros(round(tail_s * RATE_HZ), dtype=np.float32)
        self._recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(**graphs, tokens=tokens, num_threads=1)

    def start(self) -> None:
        self._stream = self._recognizer.create_stream()

    def feed(self, block: Samples) -> Iterator[str]:
        self._stream.accept_waveform(RATE_HZ, block)
        yield from self._advance()

    def finish(self) -> Iterator[str]:
        self._stream.accept_waveform(RATE_HZ, self._tail)
        self._stream.input_finished()
        yield from self._advance()

    def first_token_s(self) -> float | None:
        times = self._recognizer.timestamps(self._stream)
        return float(times[0]) if times else None

    def _advance(self) -> Iterator[str]:
        while self._recognizer.is_ready(self._stream):
            self._recognizer.decode_stream(self._stream)
            yield self._recognizer.get_result(self._stream)
        yield self._recognizer.get_result(self._stream)


class Whisper:
    """tiny.en in CTranslate2, on the full 30 s window that its decoder needs (see mvqkd.teacher.whisper_decoder)."""

    WINDOW_S = 30
    MAX_TOKENS = 224

    def __init__(self, model: str, compute_type: str, filters: str) -> None:
        import ctranslate2
        import tokenizers

        self._array = ctranslate2.StorageView.from_array
        self._model = ctranslate2.models.Whisper(
            model, device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=1
        )
        self._tokenizer = tokenizers.Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
        self._prompt = [self._tokenizer.token_to_id(name) for name in ("<|startoftranscript|>", "<|notimestamps|>")]
        self._log_mel = WhisperLogMel(np.load(filters))

    def transcribe(self, samples: Samples) -> str:
        parts = np.array_split(samples, -(-len(samples) // (self.WINDOW_S * RATE_HZ)))
        return " ".join(self._window(part) for part in parts)

    def _window(self, samples: Samples) -> str:
        mel = self._log_mel(samples, 100 * self.WINDOW_S)
        (result,) = self._model.generate(
            self._array(mel[None]), [self._prompt], beam_size=1, max_length=self.MAX_TOKENS
        )
        return str(self._tokenizer.decode(result.sequences_ids[0], skip_special_tokens=True))


class WhisperLogMel:
    """Whisper's features in numpy, as packages that serve it without torch compute them.

    Only frames that hold audio are transformed; the silence behind them is one value. Equal to
    ``mvqkd.teacher.whisper_encoder.LogMel``, whose ``filters`` (80, 201) are passed.
    """

    WINDOW, HOP = 400, 160

    def __init__(self, filters: Any) -> None:
        self._filters = filters
        self._taper = np.hanning(self.WINDOW + 1)[:-1].astype(np.float32)

    def __call__(self, samples: Samples, num_frames: int) -> Any:
        """float32 (num_samples,) -> float32 (80, num_frames), silence behind the audio."""
        half = self.WINDOW // 2
        padded = np.pad(np.pad(samples, (half, 0), mode="reflect"), (0, self.WINDOW))
        heard = min(num_frames, -(-(len(samples) + half) // self.HOP))
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.WINDOW)[:: self.HOP][:heard]
        spectrum = np.fft.rfft(frames * self._taper, axis=1)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
        mel = np.full((self._filters.shape[0], num_frames), -10, dtype=np.float32)
        mel[:, : len(power)] = np.log10(np.maximum(self._filters @ power.T, 1e-10))
        return (np.maximum(mel, mel.max() - 8) + 4) / 4


class Moonshine:
    """tiny, its .ort graphs in onnxruntime: encode once, then greedy with the key-value cache."""

    START, END = 1, 2
    # Text tokens a second that Moonshine's own code allows, against endless repetition.
    TOKENS_PER_S = 6.5

    def __init__(self, model: str) -> None:
        from mvqkd.decode.onnx_graphs import open_session

        folder = Path(model)
        self._encoder = open_session(folder / "encoder_model.ort", 1)
        self._decoder = open_session(folder / "decoder_model_merged.ort", 1)
        shapes = {item.name: item.shape for item in self._decoder.get_inputs()}
        self._caches = {name: shape for name, shape in shapes.items() if name.startswith("past_key_values")}
        self._symbols = read_moonshine_tokens(folder / "tokenizer.bin")

    def transcribe(self, samples: Samples) -> str:
        # Both graphs take the mask of the samples.
        mask = np.ones((1, len(samples)), dtype=np.int64)
        (encoded,) = self._encoder.run(None, {"input_values": samples[None], "attention_mask": mask})
        inputs = {
            "encoder_hidden_states": encoded,
            "encoder_attention_mask": mask,
            **{name: np.zeros((1, shape[1], 0, shape[3]), np.float32) for name, shape in self._caches.items()},
        }
        tokens = [self.START]
        limit = max(1, round(self.TOKENS_PER_S * len(samples) / RATE_HZ))
        while len(tokens) <= limit:
            cached = len(tokens) > 1
            inputs |= {"input_ids": np.array([tokens[-1:]]), "use_cache_branch": np.array([cached])}
            logits, *present = self._decoder.run(None, inputs)
            tokens.append(int(logits[0, -1].argmax()))
            if tokens[-1] == self.END:
                break
            for name, value in zip(self._caches, present, strict=True):
                # The encoder's keys and values are computed in the first step only.
                if not cached or ".decoder." in name:
                    inputs[name] = value
        text = b"".join(self._symbols[token] for token in tokens[1:] if token != self.END)
        return text.decode("utf-8", errors="replace").replace("▁", " ").strip()


def read_moonshine_tokens(path: Path) -> list[bytes]:
    """Tokens of Moonshine's tokenizer.bin: a length (7 bits a byte, low ones first) and that many bytes each."""
    data, symbols, place = path.read_bytes(), [], 0
    while place < len(data):
        length = data[place]
        place += 1
        if length >= 0x80:
            length += 0x80 * data[place] - 0x80
            place += 1
        symbols.append(data[place : place + length])
        place += length
    return symbols


class MoonshineLibrary:
    """tiny through the package's own library, which finds speech before it recognises it."""

    def __init__(self, model: str) -> None:
        from moonshine_voice import ModelArch, Transcriber

        self._transcriber = Transcriber(model, ModelArch.TINY)

    def transcribe(self, samples: Samples) -> str:
        found = self._transcriber.transcribe_without_streaming(samples.tolist(), RATE_HZ)
        return " ".join(line.text for line in found.lines)


class PocketSphinx:
    """The default US English model, in blocks as they come."""

    def __init__(self) -> None:
        import pocketsphinx

        self._decoder = pocketsphinx.Decoder(loglevel="FATAL")

    def start(self) -> None:
        self._decoder.start_utt()

    def feed(self, block: Samples) -> Iterator[str]:
        self._decoder.process_raw((np.clip(block, -1, 1) * 32767).astype(np.int16).tobytes())
        yield self._text()

    def finish(self) -> Iterator[str]:
        self._decoder.end_utt()
        yield self._text()

    def first_token_s(self) -> float | None:
        words = [part for part in self._decoder.seg() or () if part.word[0] not in "<["]
        return words[0].start_frame / 100 if words else None

    def _text(self) -> str:
        found = self._decoder.hyp()
        return found.hypstr if found else ""


RECOGNIZERS: dict[str, Callable[..., Any]] = {
    kind.__name__: kind
    for kind in (
        *(OursOffline, OursStreaming, OursCtc, SherpaOffline, SherpaStreaming),
        *(Whisper, Moonshine, MoonshineLibrary, PocketSphinx),
    )
}
