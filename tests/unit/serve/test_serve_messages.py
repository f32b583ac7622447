"""What clients send, read without a server: start messages, samples, parameters of the command."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st

from mvqkd.cli.serve import add_arguments
from mvqkd.serve.pcm import MessageDecoder
from mvqkd.serve.protocol import ClientFault, Start, parse_end, parse_start
from mvqkd.serve.server import _bound
from mvqkd.serve.settings import ServeSettings


def test_everything_but_the_type_may_be_left_out() -> None:
    assert parse_start('{"type": "start"}') == Start("champion", 16_000, "f32le")
    full = '{"type": "start", "sample_rate": 8000, "format": "s16le", "model": "challenger"}'
    assert parse_start(full) == Start("challenger", 8000, "s16le")


@given(st.text() | st.from_regex(r'\{"type": ?"(start|end)"(, ?"[a-z_]+": ?[0-9a-z"\[\]{}.-]+)?\}', fullmatch=True))
def test_any_text_is_read_or_refused_as_the_clients_fault(text: str) -> None:
    for parse in (parse_start, parse_end):
        # Any other exception fails the test.
        with contextlib.suppress(ClientFault):
            parse(text)


@given(st.binary(max_size=64), st.sampled_from(["f32le", "s16le"]))
def test_any_bytes_are_samples_or_the_clients_fault(data: bytes, sample_format: str) -> None:
    decoder = MessageDecoder(Start(sample_format=sample_format))
    with contextlib.suppress(ClientFault):
        samples = decoder.decode(data)
        assert samples.dtype == np.float32
        assert np.isfinite(samples).all()
        assert len(samples) == len(data) // (4 if sample_format == "f32le" else 2)


def test_integers_become_floats_of_the_same_sound() -> None:
    samples = MessageDecoder(Start(sample_format="s16le")).decode(np.array([0, 16_384, -32_768], "<i2").tobytes())
    assert samples.tolist() == [0.0, 0.5, -1.0]


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_resampling_in_pieces_is_resampling_at_once(rate: int) -> None:
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, rate * 2).astype(np.float32)
    decoder = MessageDecoder(Start(sample_rate_hz=rate))
    pieces = [decoder.decode(piece.tobytes()) for piece in np.array_split(sound, 23)]
    found = np.concatenate([*pieces, decoder.flush()])
    whole = soxr.resample(sound, rate, 16_000, quality="HQ")
    assert len(found) == pytest.approx(32_000, abs=2)
    length = min(len(found), len(whole))
    assert np.abs(found[:length] - whole[:length]).max() < 1e-4


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.9.9.9", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback_is_known(host: str, loopback: bool) -> None:
    assert ServeSettings(host=host).is_loopback is loopback


def test_by_default_only_this_machine_can_connect() -> None:
    assert ServeSettings().is_loopback


@pytest.mark.parametrize(
    "wrong", [["--port", "70000"], ["--max-streams", "0"], ["--drain-s", "nan"], ["--max-queue-s", "-1"], ["--host"]]
)
def test_wrong_limits_are_usage_errors(wrong: list[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--bundle", "x", *wrong])
    assert caught.value.code == 2


def test_results_are_sent_at_once() -> None:
    """asyncio switches Nagle's algorithm off, but only on sockets that it knows to be TCP."""

    async def no_delay_of_an_accepted_socket() -> int:
        found = asyncio.get_running_loop().create_future()

        async def look(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted = writer.get_extra_info("socket")
            found.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with _bound(ServeSettings(port=0)) as listening:
            async with await asyncio.start_server(look, sock=listening):
                _, writer = await asyncio.open_connection(*listening.getsockname())
                value = await asyncio.wait_for(found, 10)
                writer.close()
                return int(value)

    assert asyncio.run(no_delay_of_an_accepted_socket()) == 1
