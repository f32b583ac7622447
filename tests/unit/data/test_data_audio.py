from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mvqkd.artifacts import Artifact
from mvqkd.data.audio import load_audio, num_samples, read_audio
from mvqkd.data.cuts import load_cuts
from mvqkd.errors import AudioError


def _encode_with_av(path: Path, codec: str, samples: np.ndarray, rate_hz: int) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="mono")
        frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None, :], format="s16", layout="mono")
        frame.sample_rate = rate_hz
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def _sine(rate_hz: int, duration_s: float = 1.0, frequency_hz: float = 440.0) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * frequency_hz * np.arange(round(rate_hz * duration_s)) / rate_hz)


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_come_out_at_16_khz_with_the_same_tone(tmp_path: Path, rate_hz: int) -> None:
    soundfile.write(tmp_path / "a.wav", _sine(rate_hz), rate_hz)
    samples = read_audio(tmp_path / "a.wav")
    assert samples.dtype == np.float32
    assert abs(samples.size - 16_000) <= 1
    spectrum = np.abs(np.fft.rfft(samples[:16_000], n=16_000))
    assert abs(int(spectrum.argmax()) - 440) <= 1


@pytest.mark.parametrize(("suffix", "kind"), [("flac", "FLAC"), ("ogg", "OGG"), ("mp3", "MP3")])
def test_compressed_files_read(tmp_path: Path, suffix: str, kind: str) -> None:
    soundfile.write(tmp_path / f"a.{suffix}", _sine(16_000), 16_000, format=kind)
    samples = read_audio(tmp_path / f"a.{suffix}")
    assert samples.size >= 16_000
    assert 0.15 < float(np.std(samples)) < 0.25


def test_g722_reads_through_av(tmp_path: Path) -> None:
    _encode_with_av(tmp_path / "a.g722", "g722", _sine(16_000), 16_000)
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.read(tmp_path / "a.g722")
    samples = read_audio(tmp_path / "a.g722")
    assert samples.size == 16_000
    assert int(np.abs(np.fft.rfft(samples)).argmax()) == 440


def test_a_playlist_does_not_open_what_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    soundfile.write(tmp_path / "other.wav", _sine(16_000), 16_000)
    (tmp_path / "a.wav").write_text("ffconcat version 1.0\nfile other.wav\n")
    with pytest.raises(AudioError, match=r"a\.wav"):
        read_audio(tmp_path / "a.wav")


def test_stereo_is_refused_in_one_line_and_mixed_on_request(tmp_path: Path, tone: Callable[..., None]) -> None:
    tone(tmp_path / "s.wav", rate_hz=44_100, channels=2)
    with pytest.raises(AudioError) as caught:
        read_audio(tmp_path / "s.wav")
    assert "expected one channel, got 2 channels at 44100 Hz; mix it down" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert read_audio(tmp_path / "s.wav", mix_down=True).shape == (16_000,)


@pytest.mark.parametrize("content", [b"", b"RIFF\x00\x00", b"not audio at all" * 100])
def test_corrupt_files_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.wav").write_bytes(content)
    with pytest.raises(AudioError) as caught:
        read_audio(tmp_path / "c.wav")
    assert f"recording {tmp_path / 'c.wav'}: expected an audio file" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_empty_and_non_finite_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no such file"):
        read_audio(tmp_path / "absent.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    with pytest.raises(AudioError, match="no samples"):
        read_audio(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "nan.wav", np.full(16_000, np.nan, np.float32), 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN"):
        read_audio(tmp_path / "nan.wav")


def test_load_audio_gives_the_samples_of_the_file(corpus: Path, prepare: Callable[..., Artifact]) -> None:
    cuts = load_cuts(prepare(corpus), "train")
    for cut in cuts:
        expected, rate_hz = soundfile.read(corpus.parent / "audio" / f"{cut.id}.wav", dtype="float32")
        assert rate_hz == 16_000
        samples = load_audio(cut)
        assert samples.dtype == np.float32
        assert num_samples(cut) == samples.size
        np.testing.assert_array_equal(samples, expected)


def test_audio_that_changed_vanished_or_broke_names_the_cut(corpus: Path, prepare: Callable[..., Artifact]) -> None:
    cut = load_cuts(prepare(corpus), "train")[0]
    path = Path(cut.recording.sources[0].source)
    original = path.read_bytes()
    load_audio(cut)
    path.write_bytes(original[:-2] + b"\x01\x02")
    with pytest.raises(AudioError, match=rf"cut {cut.id}: .*it has changed since prepare-data"):
        load_audio(cut)
    path.unlink()
    with pytest.raises(AudioError, match=rf"cut {cut.id}: .*No such file"):
        load_audio(cut)
    del cut.custom["audio_sha256"]
    with pytest.raises(AudioError, match=rf"cut {cut.id}: expected readable audio"):
        load_audio(cut)
    path.write_bytes(original[: len(original) // 2])
    with pytest.raises(AudioError, match=rf"cut {cut.id}: "):
        load_audio(cut)
