"""Transcribe with the embedded English Whisper, through CTranslate2.

The decoder needs what it was trained on: the full 30 s window. (On recordings trimmed to their length plus
1, 2 or 5 s of silence its WER on LibriSpeech is 80, 40 and 16 % in place of 9 %.) So this costs about half a
CPU-second a recording however short it is; only the embeddings are computed on trimmed audio.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mvqkd.errors import MissingDependencyError
from mvqkd.teacher.whisper_encoder import MEL_FRAMES_PER_FRAME, SAMPLES_PER_FRAME, LogMel

_END_OF_TEXT = "<|endoftext|>"
_PROMPT = ("<|startoftranscript|>", "<|notimestamps|>")
_MAX_TOKENS = 224
# Recordings handed to CTranslate2 at once: enough for its workers, little to hold in memory (1 MB each).
_QUEUED_RECORDINGS = 32


class WhisperTranscriber:
    """Greedy transcription of 16 kHz recordings, on the CPU.

    The text is Whisper's own: punctuated, numbers often in digits. Normalise it before scoring.
    """

    def __init__(self, directory: Path, *, num_mels: int, max_frames: int) -> None:
        try:
            import ctranslate2
        except ImportError as error:
            raise MissingDependencyError(
                "transcription with whisper-tiny.en",
                expected="the package ctranslate2",
                got=str(error),
                next_step="pip install ctranslate2, or evaluate with --teacher-wer false",
            ) from error
        self._as_storage: Any = ctranslate2.StorageView.from_array
        # One thread a recording: recordings are independent, so the workers never wait for each other.
        self._model: Any = ctranslate2.models.Whisper(
            str(directory), device="cpu", compute_type="float32", inter_threads=torch.get_num_threads(), intra_threads=1
        )
        self._vocabulary = (directory / "vocabulary.txt").read_text(encoding="utf-8").split("\n")
        self._num_text_tokens = self._vocabulary.index(_END_OF_TEXT)
        self._byte_of = _byte_of_character()
        self._log_mel = LogMel(num_mels)
        self._max_frames = max_frames

    def transcribe(self, audio: Sequence[NDArray[np.float32]]) -> list[str]:
        """Transcribe float32 (num_samples,) recordings; one of more than 30 s is cut into equal parts."""
        texts: list[str] = []
        for start in range(0, len(audio), _QUEUED_RECORDINGS):
            queued = audio[start : start + _QUEUED_RECORDINGS]
            pending = [[self._submit(part) for part in self._parts(samples)] for samples in queued]
            texts += [" ".join(self._text(result) for result in results) for results in pending]
        return texts

    def _parts(self, samples: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        count = -(-samples.size // (self._max_frames * SAMPLES_PER_FRAME))
        return np.array_split(samples, count)

    def _submit(self, samples: NDArray[np.float32]) -> Any:
        mel = self._log_mel(torch.from_numpy(samples), MEL_FRAMES_PER_FRAME * self._max_frames)
        (result,) = self._model.generate(
            self._as_storage(mel[None].contiguous().numpy()),
            [list(_PROMPT)],
            asynchronous=True,
            beam_size=1,
            max_length=_MAX_TOKENS,
        )
        return result

    def _text(self, pending: Any) -> str:
        tokens = pending.result().sequences_ids[0]
        characters = "".join(self._vocabulary[token] for token in tokens if token < self._num_text_tokens)
        raw = bytes(self._byte_of[character] for character in characters)
        return raw.decode("utf-8", errors="replace").strip()


def _byte_of_character() -> dict[str, int]:
    """The inverse of GPT-2's byte alphabet.

    A byte that prints is written as itself; the 68 others (controls, blanks, 0x7F-0xA0, 0xAD) as the
    characters from U+0100 on, in order. The vocabulary file is written in this alphabet.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}
