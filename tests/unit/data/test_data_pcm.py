"""Raw PCM in pieces of any size, and headers of WAV streams."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from mvqkd.data.pcm import PcmDecoder, PcmLayout, read_wav_header
from mvqkd.errors import AudioError

VALUES = np.array([-1.0, -0.5, 0.0, 0.25, 0.5], dtype=np.float32)
BYTES = {
    "u8": np.array([0, 64, 128, 160, 192], np.uint8).tobytes(),
    "s16le": np.array([-32768, -16384, 0, 8192, 16384], "<i2").tobytes(),
    "s16be": np.array([-32768, -16384, 0, 8192, 16384], ">i2").tobytes(),
    "s32le": np.array([-(2**31), -(2**30), 0, 2**29, 2**30], "<i4").tobytes(),
    "f32le": VALUES.astype("<f4").tobytes(),
}


@pytest.mark.parametrize("form", BYTES)
def test_formats(form: str) -> None:
    decoder = PcmDecoder(PcmLayout(form, 16_000), "a stream")
    assert np.array_equal(decoder.accept(BYTES[form]), VALUES)
    assert len(decoder.finish()) == 0


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 700), max_size=20),
    rate_hz=st.sampled_from([8_000, 16_000, 44_100]),
    channels=st.integers(1, 3),
)
def test_pieces_do_not_matter(sizes: list[int], rate_hz: int, channels: int) -> None:
    rng = np.random.default_rng(sum(sizes))
    data = rng.integers(-20_000, 20_000, 2_000 * channels).astype("<i2").tobytes()
    layout = PcmLayout("s16le", rate_hz, channels)
    whole = PcmDecoder(layout, "a stream", mix_down=True)
    expected = np.concatenate([whole.accept(data), whole.finish()])
    pieces = PcmDecoder(layout, "a stream", mix_down=True)
    found, start = [], 0
    for size in [*sizes, len(data)]:
        found.append(pieces.accept(data[start : start + size]))
        start += size
    assert np.allclose(np.concatenate([*found, pieces.finish()]), expected, atol=1e-6)


def test_rate_and_channels_are_converted() -> None:
    time_s = np.arange(8_000) / 8_000
    tone = 0.5 * np.sin(2 * np.pi * 440 * time_s)
    both = np.stack([tone, np.zeros_like(tone)], axis=1).astype("<f4")
    decoder = PcmDecoder(PcmLayout("f32le", 8_000, 2), "a stream", mix_down=True)
    found = np.concatenate([decoder.accept(both.tobytes()), decoder.finish()])
    assert np.allclose(found, soxr.resample((tone / 2).astype(np.float32), 8_000, 16_000), atol=1e-3)


def test_what_is_no_speech_is_refused() -> None:
    with pytest.raises(AudioError, match="2 channels"):
        PcmDecoder(PcmLayout("s16le", 16_000, 2), "a stream")
    decoder = PcmDecoder(PcmLayout("f32le", 16_000), "a stream")
    with pytest.raises(AudioError, match="NaN"):
        decoder.accept(np.array([0.0, np.nan], "<f4").tobytes())


def after_riff(content: bytes) -> io.BytesIO:
    stream = io.BytesIO(content)
    assert stream.read(4) == b"RIFF"
    return stream


@pytest.mark.parametrize(
    ("subtype", "channels", "form"),
    [("PCM_16", 1, "s16le"), ("PCM_32", 2, "s32le"), ("FLOAT", 1, "f32le"), ("PCM_U8", 1, "u8")],
)
@pytest.mark.parametrize("container", ["WAV", "WAVEX"])
def test_headers_that_soundfile_writes(subtype: str, channels: int, form: str, container: str) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros((100, channels)), 22_050, subtype=subtype, format=container)
    stream = after_riff(file.getvalue())
    layout = read_wav_header(stream, "a stream")
    assert layout == PcmLayout(form, 22_050, channels)
    samples = PcmDecoder(PcmLayout(form, 16_000, channels), "it", mix_down=True).accept(stream.read())
    assert np.array_equal(samples, np.zeros(100, np.float32))


def test_header_of_a_recording_that_is_not_finished() -> None:
    header = struct.pack("<4sI4s", b"RIFF", 0xFFFFFFFF, b"WAVE") + struct.pack("<4sI3s", b"LIST", 3, b"abc") + b"\0"
    header += struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16)
    header += struct.pack("<4sI", b"data", 0x7FFFF000)
    stream = after_riff(header + b"\1\0")
    assert read_wav_header(stream, "a stream") == PcmLayout("s16le", 16_000, 1)
    assert stream.read() == b"\1\0"


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"RIFF", "its end"),
        (b"RIFF\0\0\0\0AVI LIST", "another RIFF"),
        (b"RIFF\0\0\0\0WAVE" + struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16_000, 48_000, 3, 24), "24 bits"),
        (b"RIFF\0\0\0\0WAVE" + struct.pack("<4sIHHIIHH", b"fmt ", 16, 7, 1, 8_000, 8_000, 1, 8), "type 7"),
        (b"RIFF\0\0\0\0WAVE" + struct.pack("<4sIH", b"fmt ", 2, 1), "2 bytes"),
    ],
)
def test_other_headers_are_refused(content: bytes, got: str) -> None:
    with pytest.raises(AudioError, match=got):
        read_wav_header(after_riff(content), "a stream")
