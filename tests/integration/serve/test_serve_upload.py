"""/v1/transcribe and the other pages on a real server: answers, refusals, nothing left behind."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import tracemalloc
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from websockets.exceptions import ConnectionClosed

from mvqkd.artifacts import Artifact
from mvqkd.decode.onnx_runtime import OnnxTransducer
from mvqkd.errors import AudioError
from mvqkd.serve.protocol import ClientFault
from mvqkd.serve.upload_audio import decode_upload
from tests.serving import Floats, Server, serving, speech


def encoded(samples: Floats, rate: int = 16_000, container: str = "WAV", subtype: str | None = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype=subtype)
    return file.getvalue()


def multipart(data: bytes, name: str = "file") -> tuple[bytes, str]:
    head = f'--sep\r\nContent-Disposition: form-data; name="{name}"; filename="a.wav"\r\n\r\n'
    return head.encode() + data + b"\r\n--sep--\r\n", "multipart/form-data; boundary=sep"


@pytest.mark.parametrize("how", ["raw", "multipart"])
def test_text_is_that_of_the_offline_graphs(server: Server, bundle: Artifact, how: str) -> None:
    data = encoded(speech(5), subtype="FLOAT")
    body, content_type = multipart(data) if how == "multipart" else (data, "audio/wav")
    status, answer = server.post("/v1/transcribe", body, content_type=content_type)
    assert status == 200, answer
    result = json.loads(answer)
    assert result["text"] == OnnxTransducer(bundle.path).transcribe([speech(5)])[0]
    assert len(result["tokens"]) == len(result["times_s"]) > 10
    assert result["times_s"] == sorted(result["times_s"])
    assert result["times_s"][-1] < 5
    assert result["duration_s"] == 5
    assert result["bundle_id"] == bundle.id


def test_long_recordings_are_decoded_in_windows_with_times_from_the_start(server: Server) -> None:
    result = json.loads(server.post("/v1/transcribe", encoded(speech(31)[: 31 * 16_000]), content_type="audio/wav")[1])
    assert result["duration_s"] == 31
    assert 25 < result["times_s"][-1] < 31
    assert len(result["segments"]) == 2


def test_other_formats_of_the_answer(server: Server) -> None:
    body = encoded(speech(4))
    text = server.post("/v1/transcribe?format=text", body)[1]
    assert text.strip() == json.loads(server.post("/v1/transcribe", body)[1])["text"]
    assert server.post("/v1/transcribe?format=srt", body)[1].startswith("1\n00:00:")
    assert server.post("/v1/transcribe?format=vtt", body)[1].startswith("WEBVTT\n")
    assert server.post("/v1/transcribe?format=text&model=challenger", body)[1] == text.lower()


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("format=xml", 400, "srt"),
        ("model=other", 404, "challenger"),
        ("mixdown=true", 400, "mix_down"),
        ("mix_down=yes", 400, "true or false"),
    ],
)
def test_unknown_parameters(server: Server, query: str, status: int, said: str) -> None:
    found, answer = server.post(f"/v1/transcribe?{query}", encoded(speech(1)))
    assert found == status
    assert said in json.loads(answer)["error"]["message"]


def test_what_is_no_usable_audio_is_422(server: Server) -> None:
    stereo = np.stack([speech(1), speech(1)], axis=1)
    broken = encoded(speech(1), container="FLAC")[:4000]
    nan = encoded(np.array([0.1, np.nan], np.float32), subtype="FLOAT")
    for body in (b"", b"hello", encoded(stereo), nan, encoded(speech(1)[:0]), b"RIFF" + b"\xff" * 500):
        status, answer = server.post("/v1/transcribe", body)
        assert status == 422, answer
        assert "Traceback" not in answer
        assert str(Path.cwd()) not in answer
    assert server.post("/v1/transcribe?mix_down=true", encoded(stereo))[0] == 200
    assert server.post("/v1/transcribe", broken)[0] in (200, 422)
    body, content_type = multipart(b"x" * 10, name="file")
    assert server.post("/v1/transcribe", body.replace(b"filename", b"filenam"), content_type=content_type)[0] == 400
    assert server.post("/v1/transcribe", b"no parts", content_type="multipart/form-data; boundary=sep")[0] == 400
    assert server.post("/v1/transcribe", b"no parts", content_type="multipart/form-data")[0] == 400


@contextmanager
def raw_connection(server: Server) -> Iterator[socket.socket]:
    parts = urllib.parse.urlsplit(server.url)
    assert parts.hostname is not None
    with socket.create_connection((parts.hostname, parts.port or 0), timeout=20) as connection:
        yield connection


def test_a_declared_size_is_refused_before_the_first_byte(server: Server) -> None:
    with raw_connection(server) as connection:
        connection.sendall(b"POST /v1/transcribe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("kind", ["raw", "multipart"])
def test_an_endless_upload_is_refused_while_it_arrives(server: Server, kind: str) -> None:
    """In chunks, without a size: at most a little more than the limit of 1 MB is taken."""
    head = "POST /v1/transcribe HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    first = b""
    if kind == "multipart":
        first, content_type = multipart(b"")
        first = first[: -len(b"\r\n--sep--\r\n")]
        head += f"Content-Type: {content_type}\r\n"
    sent = 0
    with raw_connection(server) as connection:
        connection.sendall(head.encode() + b"\r\n")
        connection.settimeout(0.02)
        answer = b""
        for block in [first, *[b"\0" * 50_000] * 200]:
            if not block:
                continue
            try:
                connection.sendall(b"%x\r\n%b\r\n" % (len(block), block))
                sent += len(block)
            except OSError:
                break
            try:
                answer = connection.recv(100)
                break
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 413") or sent < 5_000_000
    assert sent < 5_000_000
    server.wait_for(lambda: server.metric("mvqkd_uploads_open") == 0)
    assert server.metric("mvqkd_rejected_total", reason="too_big") >= 1


def test_an_upload_that_stops_in_the_middle_is_given_up(server: Server) -> None:
    before = server.metric("mvqkd_rejected_total", reason="idle")
    with raw_connection(server) as connection:
        connection.sendall(b"POST /v1/transcribe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nRIFF")
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
    assert server.metric("mvqkd_rejected_total", reason="idle") == before + 1


def test_clients_that_drip_do_not_keep_their_place(bundle: Artifact, tmp_path: Path) -> None:
    """A byte or an empty message now and then is never idle, but ends all the same."""
    with serving(bundle.path, tmp_path, "--idle-s", "0.9", "--max-duration-s", "1") as own:
        with raw_connection(own) as connection:
            connection.sendall(b"POST /v1/transcribe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
            connection.settimeout(0.2)
            answer = b""
            for _ in range(100):
                try:
                    connection.sendall(b"\0")
                    answer = connection.recv(100)
                    break
                except TimeoutError:
                    continue
            assert answer.startswith(b"HTTP/1.1 408")
        with own.stream() as client:
            message: dict[str, object] = {}
            for _ in range(100):
                # The server may have closed while nobody read: its last message is still there.
                with contextlib.suppress(ConnectionClosed):
                    client.send(b"")
                with contextlib.suppress(TimeoutError):
                    message = json.loads(client.recv(timeout=0.1))
                if message.get("type") == "end":
                    break
            assert message["reason"] == "max_duration"


def test_a_client_that_leaves_in_the_middle_frees_its_place(server: Server) -> None:
    with raw_connection(server) as connection:
        connection.sendall(b"POST /v1/transcribe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nRIFF")
        server.wait_for(lambda: server.metric("mvqkd_uploads_open") == 1)
    server.wait_for(lambda: server.metric("mvqkd_uploads_open") == 0)


def test_no_file_is_left_behind(server: Server) -> None:
    """The server's TMPDIR, after all uploads of this module and one that did not fit into memory."""
    server.post("/v1/transcribe", encoded(np.zeros(490_000, np.float32)))
    # onnxruntime notes a session id there when it is imported.
    assert {file.name for file in (server.log.parent / "tmp").iterdir()} <= {".ses"}


def test_host_and_origin_of_others_are_refused(server: Server) -> None:
    body = encoded(speech(1))
    assert server.get("/healthz", Host="rebound.example:80")[0] == 421
    assert server.get("/healthz", Host="localhost:1")[0] == 200
    assert server.post("/v1/transcribe", body, origin="http://evil.example")[0] == 403
    assert server.post("/v1/transcribe", body, origin=server.url)[0] == 200
    assert server.get("/v1/models", Origin="http://evil.example")[0] == 200


def test_the_page_brings_its_own_rules(server: Server) -> None:
    with urllib.request.urlopen(server.url, timeout=20) as answer:
        page, policy = answer.read().decode(), answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<script>" not in page
    assert "style=" not in page
    for path in ("/static/app.js", "/static/stream.js", "/static/diff.js", "/static/capture.js", "/static/style.css"):
        status, text = server.get(path)
        assert status == 200
        assert "http://" not in text
        assert "https://" not in text
    assert server.get("/static/../app.py")[0] == 404
    assert server.get("/static/%2e%2e/app.py")[0] == 404
    assert json.loads(server.get("/nothing")[1])["error"]["code"] == "http"


def test_models_are_described(server: Server, bundle: Artifact, other_bundle: Artifact) -> None:
    models = json.loads(server.get("/v1/models")[1])["models"]
    assert {name: model["bundle_id"] for name, model in models.items()} == {
        "champion": bundle.id,
        "challenger": other_bundle.id,
    }


def test_a_playlist_opens_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ffmpeg would read what a playlist names: files below the server's directory, addresses of its network."""
    monkeypatch.chdir(tmp_path)
    Path("secret.wav").write_bytes(encoded(speech(1)))
    for name in ("secret.wav", f"{tmp_path}/secret.wav", f"file://{tmp_path}/secret.wav"):
        hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{name}\n#EXT-X-ENDLIST\n"
        for playlist in (hls, f"ffconcat version 1.0\nfile {name}\n"):
            with pytest.raises(AudioError):
                decode_upload(io.BytesIO(playlist.encode()), max_duration_s=10)


def test_a_small_file_that_unpacks_to_hours_is_stopped_early() -> None:
    silence = encoded(np.zeros(16_000 * 1800, np.float32), container="FLAC")
    assert len(silence) < 1_000_000
    tracemalloc.start()
    try:
        with pytest.raises(ClientFault, match="at most 10 s"):
            decode_upload(io.BytesIO(silence), max_duration_s=10)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("container", "subtype"), [("WAV", "PCM_16"), ("FLAC", None), ("OGG", None), ("MP3", None)])
def test_files_of_other_rates_are_resampled(container: str, subtype: str | None) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(22_050 * 3) / 22_050).astype(np.float32) * 0.5
    samples = decode_upload(io.BytesIO(encoded(tone, 22_050, container, subtype)), max_duration_s=10)
    assert len(samples) == pytest.approx(48_000, abs=2500)
    spectrum = np.abs(np.fft.rfft(samples[8000:40_000]))
    assert int(spectrum.argmax()) * 16_000 / 32_000 == pytest.approx(440, abs=1)


def test_containers_of_browsers_are_read() -> None:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="webm") as container:
        stream = container.add_stream("libopus", rate=48_000)
        stream.layout = "mono"
        for start in range(0, 96_000, 960):
            tone = np.sin(2 * np.pi * 440 * np.arange(start, start + 960) / 48_000).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(tone, format="flt", layout="mono")
            frame.sample_rate, frame.pts = 48_000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    file.seek(0)
    assert len(decode_upload(file, max_duration_s=10)) == pytest.approx(32_000, abs=1600)
