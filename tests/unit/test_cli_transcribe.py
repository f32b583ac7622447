"""``mvqkd transcribe`` before any audio is decoded: which bundle, which files, wrong usage."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvqkd.cli.main import run
from mvqkd.cli.transcribe import _PCM_FORMATS
from mvqkd.cli.transcribe_input import AUDIO_SUFFIXES, find_audio
from mvqkd.data.pcm import PCM_FORMATS
from mvqkd.errors import AudioError


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory without params.yaml and without a registry."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "a.wav").write_bytes(b"")
    return tmp_path


def test_without_a_registry_the_error_says_how_to_get_one(nowhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["transcribe", "a.wav"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "models:/mvqkd-student@champion" in line
    assert "mvqkd promote" in line


def test_the_champion_is_that_of_the_params_files_model(nowhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (nowhere / "params.yaml").write_text("promote:\n  model_name: from-here\n")
    (nowhere / "other.yaml").write_text("promote:\n  model_name: from-there\n")
    assert run(["transcribe", "a.wav"]) == 1
    assert "models:/from-here@champion" in capsys.readouterr().err
    assert run(["transcribe", "--params", "other.yaml", "a.wav"]) == 1
    assert "models:/from-there@champion" in capsys.readouterr().err


def test_a_directory_that_is_no_bundle_is_refused(nowhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["transcribe", "--bundle", str(nowhere), "a.wav"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "artifact.json" in line
    assert "mvqkd export-onnx" in line


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--num-threads", "0", "a.wav"],
        ["--format", "xml", "a.wav"],
        ["--num-threads", "many", "a.wav"],
        ["--stream", "--hotwords", "words.txt", "a.wav"],
        ["--stream", "--decoder", "modified_beam_search", "a.wav"],
        ["--hotwords", "words.txt", "--decoder", "greedy", "a.wav"],
        ["--hotwords-score", "2", "a.wav"],
        ["--real-time", "a.wav"],
        ["--format", "srt", "a.wav", "b.wav"],
        ["--raw", "s24le", "a.pcm"],
        ["-", "-"],
    ],
)
def test_wrong_usage_is_2(nowhere: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(["transcribe", *arguments])
    assert caught.value.code == 2


def test_folders_give_their_audio_files_in_order(tmp_path: Path) -> None:
    for name in ("b.WAV", "a.flac", "deep/c.mp3", ".hidden.wav", "notes.txt", "d.wav.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    assert list(find_audio(tmp_path)) == [str(tmp_path / name) for name in ("a.flac", "b.WAV", "deep/c.mp3")]
    # A file that is named is taken whatever its suffix.
    assert list(find_audio(tmp_path / "notes.txt")) == [str(tmp_path / "notes.txt")]
    (error,) = find_audio(tmp_path / "folder.wav")
    assert isinstance(error, AudioError)
    assert ".g722" in AUDIO_SUFFIXES


def test_help_lists_the_formats_that_the_decoder_knows() -> None:
    assert set(_PCM_FORMATS) == set(PCM_FORMATS)


def test_two_recordings_never_share_an_output_file(nowhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["transcribe", "--output-dir", "out", "deep/a.flac", "a.wav"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "deep/a.flac and a.wav" in line
    assert "out/a.txt" in line
