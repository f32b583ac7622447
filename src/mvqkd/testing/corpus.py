"""A small synthetic corpus that a tiny student can learn: every letter is a vowel-like sound of its own.

It is no speech, but it has what the pipeline needs of speech: speakers of different pitch, formants that carry the
letters, pauses between words, noise, a transcript that is exactly what is "said".
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvqkd.frames import SAMPLE_RATE_HZ

WORDS = (
    *("BAD", "BED", "CAB", "CAGE", "DEAF", "EDGE", "FACE", "FADE", "HEAD", "HIDE", "JADE", "LAKE", "MIKE", "NAIL"),
    *("OCEAN", "PIANO", "QUOTE", "RADIO", "SONG", "TABLE", "UNCLE", "VOICE", "WINTER", "XENON", "YES", "ZERO"),
)
_LETTER_S = 0.09
_GAP_S = 0.03
_PAUSE_S = 0.15
_NOISE_RMS = 0.002


def make_corpus(directory: Path, num_utterances: int = 20, seed: int = 0, *, num_speakers: int = 4) -> Path:
    """Write WAV files and a manifest for ``prepare-data --source manifest``.

    Args:
        directory: is created; gets ``manifest.jsonl`` and ``audio/*.wav`` (16 kHz, mono, 16 bit).
        num_utterances: each has 2 to 4 words, about 1.5 s; texts may repeat.
        seed: equal seeds give equal bytes.
        num_speakers: speakers take turns, so that each has as many utterances.
    Returns:
        The manifest: id, audio (relative), text, speaker a line.
    """
    import soundfile

    rng = np.random.default_rng(seed)
    (directory / "audio").mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(num_utterances):
        speaker = index % num_speakers
        words = [str(word) for word in rng.choice(WORDS, size=rng.integers(2, 5), replace=False)]
        name = f"utterance-{index:04d}"
        samples = synthesize(words, speaker=speaker, rng=rng)
        pcm = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
        soundfile.write(directory / "audio" / f"{name}.wav", pcm, SAMPLE_RATE_HZ, subtype="PCM_16")
        rows.append(
            {"id": name, "audio": f"audio/{name}.wav", "text": " ".join(words), "speaker": f"speaker-{speaker}"}
        )
    manifest = directory / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return manifest


def synthesize(words: list[str], *, speaker: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Sound of some words of A-Z: float32 (samples,), 16 kHz, peak below 0.5.

    Args:
        speaker: sets pitch and formant scale.
        rng: draws letter durations (+-15 %) and noise.
    """
    pitch_hz = 95.0 + 30.0 * (speaker % 5)
    scale = 1.0 + 0.03 * (speaker % 5 - 2)
    parts = [_silence(_PAUSE_S)]
    for word in words:
        for letter in word:
            duration_s = _LETTER_S * rng.uniform(0.85, 1.15)
            parts += [_letter(letter, duration_s, pitch_hz, scale), _silence(_GAP_S)]
        parts.append(_silence(_PAUSE_S))
    samples = np.concatenate(parts)
    return (samples + _NOISE_RMS * rng.standard_normal(samples.size)).astype(np.float32)


def _silence(duration_s: float) -> NDArray[np.float64]:
    return np.zeros(round(duration_s * SAMPLE_RATE_HZ))


def _letter(letter: str, duration_s: float, pitch_hz: float, scale: float) -> NDArray[np.float64]:
    """Harmonics of the pitch, shaped by two formants whose places on a 6 x 5 grid name the letter."""
    row, column = divmod(ord(letter) - ord("A"), 6)
    formants_hz = (scale * (280 + 130 * row), scale * (1100 + 380 * column))
    time_s = np.arange(round(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    harmonics_hz = pitch_hz * np.arange(1, int(4000 / pitch_hz))
    gains = sum(np.exp(-0.5 * ((harmonics_hz - centre) / 90.0) ** 2) for centre in formants_hz)
    wave = (gains[:, None] * np.sin(2 * np.pi * harmonics_hz[:, None] * time_s)).sum(axis=0)
    return np.asarray(0.3 * wave / np.abs(wave).max() * np.sin(np.pi * np.arange(time_s.size) / time_s.size))
