"""`mvqkd transcribe` on tones whose text is known: every input, every output, offline and streaming."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from mvqkd.cli.main import run
from mvqkd.testing.tones import make_tone_bundle, say, silence

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tone_bundle(tmp_path_factory.mktemp("tones") / "bundle").path)


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.wav `CAB`, b.flac `AB CD`, deep/c.wav at 44.1 kHz `DAD`, and long.wav: two sentences with a pause between."""
    folder = tmp_path_factory.mktemp("audio")
    soundfile.write(folder / "a.wav", say("CAB"), 16_000)
    soundfile.write(folder / "b.flac", say("AB CD"), 16_000)
    (folder / "deep").mkdir()
    soundfile.write(folder / "deep" / "c.wav", soxr.resample(say("DAD"), 16_000, 44_100), 44_100)
    soundfile.write(folder / "deep" / "long.wav", long_recording(), 16_000)
    return folder


def long_recording() -> np.ndarray:
    return np.concatenate([silence(0.5), say("AB CAD"), silence(2.0), say("DAB"), silence(1.5)])


def output_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    capsys.readouterr()
    assert run(["transcribe", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def start(*arguments: str | Path, **options: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mvqkd", "transcribe", *map(str, arguments)]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, env=ENVIRONMENT, **streams)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--int8"],
        ["--decoder", "modified_beam_search", "--beam-size", "3"],
        ["--batch-duration", "5"],
        ["--stream"],
        ["--stream", "--int8"],
    ],
)
def test_files_and_folders(bundle: str, audio: Path, capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    out = output_of(capsys, "--bundle", bundle, *options, audio / "b.flac", audio)
    long = ["AB CAD", "DAB"] if "--stream" in options else ["AB CAD DAB"]
    assert out.splitlines() == ["AB CD", "CAB", "AB CD", "DAD", *long]


def test_speed_and_latency_are_told_on_stderr(bundle: str, audio: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["transcribe", "--bundle", bundle, "--stream", str(audio / "a.wav"), str(audio / "b.flac")]) == 0
    first, _, total = capsys.readouterr().err.splitlines()
    assert first.startswith(f"{audio / 'a.wav'}: 0.56 s of audio, RTF 0.0")
    latency = float(first.partition("first token after ")[2].split()[0])
    # The first tone begins at 0: its chunk of 0.32 s, what the features see of the next 0.04 s, and the computing.
    assert 0.32 < latency < 1.0
    assert "s after the end" in first
    assert total.startswith("2 recordings: 1.44 s of audio, RTF ")


def test_json_has_tokens_times_and_words(bundle: str, audio: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = json.loads(output_of(capsys, "--bundle", bundle, "--format", "json", audio / "b.flac"))
    assert row["text"] == "AB CD"
    assert row["duration_s"] == 0.88
    assert 0 < row["rtf"] < 1
    assert row["tokens"] == ["A", "B", "▁", "C", "D", "▁"]
    assert [word["word"] for word in row["words"]] == ["AB", "CD"]
    starts_s = [word["start_s"] for word in row["words"]]
    assert starts_s == pytest.approx([0.0, 0.44], abs=0.081)
    assert all(word["start_s"] < word["end_s"] <= 0.88 for word in row["words"])
    assert row["times_s"] == sorted(row["times_s"])


def test_windows_of_a_long_recording_keep_their_times(bundle: str, audio: Path) -> None:
    from mvqkd.data.audio import read_audio
    from mvqkd.decode.onnx_runtime import OnnxTransducer

    samples = read_audio(audio / "deep" / "long.wav")
    transducer = OnnxTransducer(bundle)
    ((whole,),) = transducer.recognise([samples])
    (parts,) = transducer.recognise([samples], max_window_s=2.6)
    assert len(parts) > 1
    assert tuple(transducer.segments(samples, max_window_s=2.6)) == parts
    assert " ".join(part.text for part in parts if part.text) == whole.text == "AB CAD DAB"
    words = [word for part in parts for word in part.words()]
    assert [word.start_s for word in words] == pytest.approx([word.start_s for word in whole.words()], abs=0.05)
    assert parts[-1].end_s == pytest.approx(len(samples) / 16_000)


def test_stream_of_json_has_partial_and_final_segments(
    bundle: str, audio: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = output_of(capsys, "--bundle", bundle, "--stream", "--format", "jsonl", audio / "deep" / "long.wav")
    rows = [json.loads(line) for line in out.splitlines()]
    finals = [row for row in rows if row["type"] == "final"]
    assert [(row["segment"], row["text"]) for row in finals] == [(0, "AB CAD"), (1, "DAB")]
    assert [row["text"] for row in rows if row["type"] == "partial" and row["segment"] == 0][-1] == "AB CAD"
    heard_s = [row["heard_s"] for row in rows if row["type"] == "partial"]
    assert heard_s == sorted(heard_s)
    assert heard_s[0] < 1.0, "long before the end of the audio"
    assert finals[0]["end_s"] == finals[1]["start_s"]
    # 1.2 s of silence after the last tone, which ends at 1.3 s, at the end of a chunk.
    assert 2.4 < finals[0]["end_s"] < 2.9
    assert finals[1]["words"][0]["start_s"] == pytest.approx(3.5, abs=0.081), "times go on over segments"
    assert rows[-1]["type"] == "end"
    assert rows[-1]["text"] == "AB CAD DAB"


def test_subtitles(bundle: str, audio: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = audio / "deep" / "long.wav"
    offline = output_of(capsys, "--bundle", bundle, "--format", "srt", long).splitlines()
    assert offline[0] == "1"
    assert offline[1].startswith("00:00:00,")
    assert offline[2] == "AB CAD"
    assert offline[4] == "2"
    assert offline[5].startswith("00:00:03,")
    assert offline[6] == "DAB"
    streamed = output_of(capsys, "--bundle", bundle, "--format", "vtt", "--stream", long).splitlines()
    assert streamed[0] == "WEBVTT"
    assert [line for line in streamed if "A" in line and ":" not in line] == ["AB CAD", "DAB"]


@pytest.mark.parametrize("form", ["text", "json", "jsonl", "srt", "vtt"])
@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_a_file_for_each_recording(
    bundle: str, audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, stream: list[str]
) -> None:
    (tmp_path / "broken.wav").write_bytes(b"nothing")
    out = tmp_path / "out"
    arguments = ["--bundle", bundle, "--format", form, "--output-dir", str(out), *stream]
    assert run(["transcribe", *arguments, str(audio), str(tmp_path / "broken.wav")]) == 1
    assert capsys.readouterr().out == ""
    suffix = "txt" if form == "text" else form
    assert sorted(path.name for path in out.iterdir()) == [f"{name}.{suffix}" for name in ("a", "b", "c", "long")]
    text = (out / f"b.{suffix}").read_text(encoding="utf-8")
    assert "AB CD" in text
    if form == "json":
        assert json.loads(text)["text"] == "AB CD"


def test_one_bad_file_does_not_stop_the_others(
    bundle: str, audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stereo = tmp_path / "stereo.wav"
    soundfile.write(stereo, np.stack([say("CAB")] * 2, axis=1), 16_000)
    files = [str(audio / "a.wav"), str(stereo), str(tmp_path / "none.wav"), str(audio / "b.flac")]
    for extra in ([], ["--batch-duration", "10"], ["--stream"]):
        assert run(["transcribe", "--bundle", bundle, *extra, *files]) == 1
        captured = capsys.readouterr()
        assert captured.out.splitlines() == ["CAB", "AB CD"]
        assert "2 channels" in captured.err
        assert "no such file" in captured.err
    assert output_of(capsys, "--bundle", bundle, "--mix-down", stereo) == "CAB\n"


def test_hotwords_decide_between_what_sounds_alike(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Two tones at once, A a little louder to the graph: it is heard first, unless B is wanted.
    both = say("A", amplitude=0.3) + say("B", amplitude=0.08)
    soundfile.write(tmp_path / "both.wav", both, 16_000)
    (tmp_path / "words.txt").write_text("b\n")
    beam = ["--bundle", bundle, "--decoder", "modified_beam_search", str(tmp_path / "both.wav")]
    plain = output_of(capsys, *beam)
    assert plain.startswith("A")
    wanted = output_of(capsys, *beam, "--hotwords", tmp_path / "words.txt", "--hotwords-score", "5")
    assert wanted.startswith("B")
    (tmp_path / "words.txt").write_text("Émile\n")
    assert run(["transcribe", *beam, "--hotwords", str(tmp_path / "words.txt")]) == 1
    assert "line 1" in capsys.readouterr().err


@pytest.mark.parametrize("stream", [[], ["--stream"]])
@pytest.mark.parametrize("name", ["b.flac", "a.wav"])
def test_a_file_on_stdin(bundle: str, audio: Path, name: str, stream: list[str]) -> None:
    process = start("--bundle", bundle, *stream, "-")
    out, err = process.communicate((audio / name).read_bytes(), timeout=60)
    assert process.returncode == 0, err
    assert out.decode() == {"b.flac": "AB CD\n", "a.wav": "CAB\n"}[name]
    assert err.startswith(b"-: ")


@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_raw_pcm_from_stdin_and_from_a_file(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], stream: list[str]
) -> None:
    raw = (say("CAB")[::2] * 32767).astype("<i2").tobytes()  # 8 kHz: the fourth letter lies above, the others below
    (tmp_path / "a.pcm").write_bytes(raw)
    options = ["--bundle", bundle, *stream, "--raw", "s16le", "--rate", "8000"]
    process = start(*options, "-")
    out, err = process.communicate(raw, timeout=60)
    assert process.returncode == 0, err
    assert out == b"CAB\n"
    assert output_of(capsys, *options, tmp_path / "a.pcm") == "CAB\n"
    assert run(["transcribe", *options, str(tmp_path / "none.pcm")]) == 1


@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_nothing_at_all_is_an_error(
    bundle: str, audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], stream: list[str]
) -> None:
    (tmp_path / "a.pcm").touch()
    (tmp_path / "b.pcm").touch()
    raw = ["--bundle", bundle, *stream, "--raw", "s16le", str(tmp_path / "a.pcm"), str(tmp_path / "b.pcm")]
    assert run(["transcribe", *raw]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("expected samples, got none" in line for line in lines)
    # Without a stdin there is none to read, and files do not need it.
    process = start("--bundle", bundle, audio / "a.wav", stdin=None, preexec_fn=lambda: os.close(0))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b"CAB\n"), err


def test_words_come_while_the_microphone_is_open_and_ctrl_c_ends_it(bundle: str) -> None:
    process = start("--bundle", bundle, "--stream", "--raw", "f32le", "--format", "jsonl", "-")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(np.concatenate([say("CAB"), silence(0.2)]).astype("<f4").tobytes())
    process.stdin.flush()
    first = json.loads(process.stdout.readline())  # would block for ever if partial results waited for the end
    assert (first["type"], first["segment"]) == ("partial", 0)
    assert "CAB".startswith(first["text"])
    process.stdin.write(np.concatenate([silence(1.6), say("AD"), silence(0.6)]).astype("<f4").tobytes())
    process.stdin.flush()
    rows = [first]
    while (rows[-1]["type"], rows[-1]["text"]) != ("partial", "AD"):
        rows.append(json.loads(process.stdout.readline()))
    assert [row["text"] for row in rows if row["type"] == "final"] == ["CAB"]
    process.send_signal(signal.SIGINT)
    rest = [json.loads(line) for line in process.stdout.read().splitlines()]
    assert process.wait(timeout=30) == 0
    assert [row["text"] for row in rest if row["type"] == "final"] == ["AD"]
    process.stdin.close()
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    process.stdout.close()
    process.stderr.close()


def test_a_terminal_shows_text_in_progress_on_one_line(bundle: str, audio: Path) -> None:
    terminal, other_end = pty.openpty()
    process = start("--bundle", bundle, "--stream", audio / "deep" / "long.wav", stdin=None, stdout=other_end)
    os.close(other_end)
    shown = b""
    try:
        while data := os.read(terminal, 4096):
            shown += data
    except OSError:  # Linux's way to say that the other end is closed
        pass
    os.close(terminal)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    lines = shown.decode().replace("\r\n", "\n").split("\n")
    assert [line.rpartition("\x1b[2K")[2] for line in lines] == ["AB CAD", "DAB", ""]
    assert lines[0].count("\r\x1b[2K") > 2, "the line was rewritten"


def test_real_time_takes_as_long_as_the_speech(bundle: str, audio: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    assert run(["transcribe", "--bundle", bundle, "--stream", "--real-time", str(audio / "b.flac")]) == 0
    assert time.monotonic() - started >= 0.88
    err = capsys.readouterr().err
    assert 0.32 < float(err.partition("first token after ")[2].split()[0]) < 0.9


def test_a_bundle_without_streaming_graphs_says_how_to_get_them(
    audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mvqkd.artifacts import PartialArtifact

    partial = PartialArtifact(tmp_path / "bundle", "onnx-bundle", stage="export-onnx", config={}, parents=[])
    (partial.path / "tokens.txt").write_text("<blk> 0\n<unk> 1\nA 2\n", encoding="utf-8")
    partial.commit()
    assert run(["transcribe", "--bundle", str(tmp_path / "bundle"), "--stream", str(audio / "a.wav")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "streaming/encoder.onnx" in line
    assert "export-onnx" in line
