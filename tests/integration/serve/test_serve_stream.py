"""/v1/stream on a real server: what comes back, and what clients do wrong."""

from __future__ import annotations

import itertools
import socket
import threading
import time

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from mvqkd.artifacts import Artifact
from mvqkd.decode.streaming import StreamingRecognizer
from mvqkd.testing.tones import say, silence
from tests.serving import Server, receive, rest, rest_until_closed, speech


def test_words_are_those_of_the_recogniser(server: Server, bundle: Artifact) -> None:
    samples = speech(7.3)
    messages = server.transcribe(samples)
    expected = StreamingRecognizer(bundle.path).transcribe(samples)
    finals = [message for message in messages if message["type"] == "final"]
    assert len(expected.tokens) > 20
    assert [token for final in finals for token in final["tokens"]] == list(expected.tokens)
    assert [time_s for final in finals for time_s in final["times_s"]] == pytest.approx(expected.times_s, abs=1e-3)
    end = messages[-1]
    assert end["type"] == "end"
    assert end["reason"] == "client"
    assert end["segments"] == len(finals)
    assert end["text"] == " ".join(final["text"] for final in finals)
    assert end["audio_s"] == pytest.approx(7.3, abs=1e-3)
    assert 0 < end["decode_s"] < 7.3


def test_partials_come_while_audio_still_does(server: Server) -> None:
    samples = speech(3)
    with server.stream() as client:
        client.send(samples[:16_000].astype("<f4").tobytes())
        first = receive(client)
        assert first["type"] == "partial"
        assert 0.19 < first["audio_s"] <= 1.0
        client.send(samples[16_000:].astype("<f4").tobytes())
        client.send('{"type": "end"}')
        later = [message for message in rest(client) if message["type"] == "partial"]
    texts = [first["text"], *(message["text"] for message in later if message["segment"] == 0)]
    assert all(after.startswith(before) for before, after in itertools.pairwise(texts))
    heard = [message["audio_s"] for message in later]
    assert heard == sorted(heard)


def test_a_segment_ends_after_silence_and_the_next_has_its_own_number(server: Server) -> None:
    audio = [silence(3), say("ABDA CAD"), silence(2), say("DAB"), silence(1)]
    messages = server.transcribe(np.concatenate(audio))
    finals = [message for message in messages if message["type"] == "final"]
    assert [(final["segment"], final["text"]) for final in finals] == [(0, "ABDA CAD"), (1, "DAB")]
    # Told when the silence was long enough, not at the end.
    assert finals[0]["audio_s"] < 3 + 1.5 + 2
    assert 3 <= finals[0]["times_s"][0] < 3.3
    assert {message["segment"] for message in messages if message.get("tokens")} == {0, 1}
    assert messages[-1]["text"] == "ABDA CAD DAB"


def test_long_speech_is_cut_at_a_pause(server: Server) -> None:
    finals = [message for message in server.transcribe(speech(70)) if message["type"] == "final"]
    assert [final["segment"] for final in finals] == list(range(len(finals)))
    assert 2 <= len(finals) <= 4
    starts = [final["times_s"][0] for final in finals]
    assert starts == sorted(starts)


@pytest.mark.parametrize(("rate", "sample_format"), [(48_000, "s16le"), (8_000, "f32le"), (44_100, "f32le")])
def test_other_rates_and_formats(server: Server, rate: int, sample_format: str) -> None:
    samples = np.interp(np.arange(0, 3, 1 / rate), np.arange(0, 3, 1 / 16_000), speech(3)).astype(np.float32)
    data = (samples * 32767).astype("<i2") if sample_format == "s16le" else samples.astype("<f4")
    with server.stream(sample_rate=rate, format=sample_format) as client:
        for block in np.array_split(data, 17):
            client.send(block.tobytes())
        client.send('{"type": "end"}')
        end = rest(client)[-1]
    assert end["type"] == "end"
    assert end["audio_s"] == pytest.approx(3, abs=0.01)
    assert len(end["text"]) > 5


def test_the_challenger_is_the_other_bundle(server: Server) -> None:
    samples = speech(4)
    champion, challenger = (server.transcribe(samples, model=name)[-1]["text"] for name in ("champion", "challenger"))
    assert challenger == champion.lower() != champion


@pytest.mark.parametrize(
    ("messages", "code", "said"),
    [
        (["not json"], 1007, "not JSON"),
        (["[" * 4000], 1007, "not JSON"),
        (['"start"'], 1007, "JSON object"),
        (['{"type": "end"}'], 1007, "start"),
        (['{"type": "start", "sample_rat": 16000}'], 1007, "sample_rate?"),
        (['{"type": "start", "sample_rate": 1e4}'], 1007, "integer"),
        (['{"type": "start", "sample_rate": 7000}'], 1007, "8000"),
        (['{"type": "start", "format": ["f32le"]}'], 1007, "s16le"),
        (['{"type": "start", "model": "other"}'], 1007, "challenger"),
        ([b"\0" * 400], 1007, "before the audio"),
        (['{"type": "start"}', '{"type": "start"}'], 1007, "end"),
        (['{"type": "start"}', b"\0" * 401], 1007, "401 bytes"),
        (['{"type": "start", "format": "s16le"}', b"\0" * 401], 1007, "401 bytes"),
        (['{"type": "start"}', np.array([0, np.nan], "<f4").tobytes()], 1007, "NaN"),
        (['{"type": "start"}', np.array([0, -np.inf], "<f4").tobytes()], 1007, "infinite"),
        (['{"type": "start"}', np.array([0, 2000], "<f4").tobytes()], 1007, "larger"),
        (['{"type": "start"}', '{"type": "end"}' + " " * 5000], 1007, "4096"),
    ],
)
def test_malformed_messages_are_answered_and_closed(
    server: Server, messages: list[str | bytes], code: int, said: str
) -> None:
    with server.connect() as client:
        for message in messages:
            client.send(message)
        answers = rest_until_closed(client)
        assert answers[-1]["type"] == "error"
        assert answers[-1]["code"] == "malformed"
        assert said in answers[-1]["message"]
        assert client.close_code == code
    assert server.get("/readyz")[0] == 200


def test_oversized_and_undecodable_messages_close_the_connection_only(server: Server) -> None:
    with server.stream() as client:
        client.send(b"\0" * 600_000)
        rest_until_closed(client)
        assert client.close_code == 1009
    with server.connect() as client:
        client.socket.sendall(b"\x81\x82\0\0\0\0\xff\xfe")  # a text frame that is not UTF-8
        rest_until_closed(client)
    assert server.get("/readyz")[0] == 200


def test_silent_clients_are_given_up(server: Server) -> None:
    with server.stream() as client:
        started = time.monotonic()
        (answer,) = rest_until_closed(client)
        assert answer["code"] == "idle"
        assert client.close_code == 1008
        assert 2.5 < time.monotonic() - started < 10


def test_clients_that_vanish_free_their_place(server: Server) -> None:
    before = server.metric("mvqkd_disconnects_total")
    for _ in range(3):
        with server.stream() as client:
            client.send(speech(1).astype("<f4").tobytes())
            # Without a closing handshake, as when a telephone loses its network.
            client.socket.shutdown(socket.SHUT_RDWR)
    server.wait_for(lambda: server.metric("mvqkd_disconnects_total") == before + 3)
    server.wait_for(lambda: server.metric("mvqkd_streams_open") == 0)
    assert server.metric("mvqkd_queue_seconds") == 0
    assert server.transcribe(speech(1))[-1]["type"] == "end"


def test_one_stream_too_many_is_told_when_to_come_back(server: Server) -> None:
    with server.stream(), server.stream(), server.stream(), server.stream(), server.connect() as fifth:
        (answer,) = rest_until_closed(fifth)
        assert answer["code"] == "busy"
        assert answer["retry_after_s"] == 5
        assert fifth.close_code == 1013
    assert server.metric("mvqkd_rejected_total", reason="busy") >= 1
    server.wait_for(lambda: server.metric("mvqkd_streams_open") == 0)


def test_a_client_faster_than_the_decoder_has_to_wait(server: Server) -> None:
    """150 s at once: never more than the queue and one message wait in the server, and nothing is lost."""
    seen: list[float] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.append(server.metric("mvqkd_queue_seconds"))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        end = server.transcribe(np.tile(speech(15), 10))[-1]
    finally:
        done.set()
        watching.join()
    assert end["audio_s"] == pytest.approx(150, abs=1e-3)
    assert 0.5 < max(seen) <= 2.0 + 0.51


def test_a_stream_ends_at_the_longest_duration(server: Server) -> None:
    with server.stream() as client:
        block = np.zeros(100_000, dtype="<f4").tobytes()
        reader: list[dict[str, object]] = []
        reading = threading.Thread(target=lambda: reader.extend(rest_until_closed(client)))
        reading.start()
        for _ in range(40):
            try:
                client.send(block)
            except ConnectionClosed:
                break
        reading.join(30)
        assert reader[-1]["type"] == "end"
        assert reader[-1]["reason"] == "max_duration"
        assert reader[-1]["audio_s"] == pytest.approx(200, abs=6.3)
        assert client.close_code == 1008


def test_pages_of_other_sites_cannot_connect(server: Server) -> None:
    for origin in ("http://evil.example", "null", server.url.replace("127.0.0.1", "localhost")):
        with pytest.raises(InvalidStatus) as caught, server.connect(additional_headers={"Origin": origin}):
            pass
        assert caught.value.response.status_code == 403
    with server.connect(additional_headers={"Origin": server.url}) as client:
        client.send('{"type": "start"}')
        assert receive(client)["type"] == "ready"


def test_metrics_say_what_was_done(server: Server, bundle: Artifact) -> None:
    before = {name: server.metric(name) for name in ("mvqkd_chunk_batch_size_sum", "mvqkd_decode_seconds_count")}
    audio = server.metric("mvqkd_audio_seconds_total", kind="stream", model="champion")
    server.transcribe(speech(3.2))
    assert server.metric("mvqkd_chunk_batch_size_sum") - before["mvqkd_chunk_batch_size_sum"] >= 3.2 / 0.32 - 1
    assert server.metric("mvqkd_decode_seconds_count") > before["mvqkd_decode_seconds_count"]
    gained = server.metric("mvqkd_audio_seconds_total", kind="stream", model="champion") - audio
    assert gained == pytest.approx(3.2, abs=1e-3)
    assert server.metric("mvqkd_model_info", model="champion", bundle_id=bundle.short_id) == 1
    assert server.metric("mvqkd_models_loaded") == 2
    assert server.metric("mvqkd_worker_errors_total") == 0


def test_nothing_that_was_said_is_logged(server: Server) -> None:
    text = server.transcribe(speech(3))[-1]["text"]
    assert len(text) > 10
    assert text[:10] not in server.log.read_text()
