"""Many people who speak at once, as one process: real-time streams to `mvqkd serve`. Started by serving.py.

Prints one JSON object: for every chunk the time at which its last block was sent (CLOCK_MONOTONIC) and how long the
partial or final that covers it took to arrive; how late blocks were sent; this process's own CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import websockets

RATE_HZ = 16_000
BLOCK_S = 0.1
_BLOCK = round(BLOCK_S * RATE_HZ)
# A block counts as containing the last audio of a chunk up to rounding in the message.
_EPSILON_S = 0.001


class Speaker:
    """One stream: sends blocks of a tenth of a second in real time from anywhere in the audio, in a circle."""

    def __init__(self, audio: np.ndarray, first_block: int) -> None:
        self.delays: list[tuple[float, float]] = []
        self.late_s: list[float] = []
        self.errors: list[str] = []
        self._audio, self._block = audio, first_block
        self._sent: deque[tuple[float, float]] = deque()

    async def run(self, url: str, delay_s: float, duration_s: float) -> None:
        await asyncio.sleep(delay_s)
        try:
            async with websockets.connect(url, compression=None, proxy=None, max_queue=None) as connection:
                await connection.send(json.dumps({"type": "start", "sample_rate": RATE_HZ, "format": "s16le"}))
                reading = asyncio.create_task(self._read(connection))
                await self._speak(connection, duration_s)
                await connection.send('{"type": "end"}')
                await asyncio.wait_for(reading, 60)
        except (OSError, websockets.WebSocketException, TimeoutError) as error:
            self.errors.append(f"{type(error).__name__}: {error}")

    async def _speak(self, connection: Any, duration_s: float) -> None:
        blocks = len(self._audio) // _BLOCK
        begin = time.monotonic()
        for number in range(1, round(duration_s / BLOCK_S) + 1):
            # A block can be sent when it has been spoken.
            due = begin + number * BLOCK_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            start = (self._block + number) % blocks * _BLOCK
            now = time.monotonic()
            self.late_s.append(now - due)
            self._sent.append((number * BLOCK_S, now))
            await connection.send(self._audio[start : start + _BLOCK].tobytes())

    async def _read(self, connection: Any) -> None:
        async for text in connection:
            now = time.monotonic()
            message = json.loads(text)
            if message["type"] == "error":
                self.errors.append(message["message"])
            if message["type"] not in ("partial", "final"):
                continue
            while self._sent and self._sent[0][0] < message["audio_s"] - _EPSILON_S:
                self._sent.popleft()
            if self._sent:
                self.delays.append((self._sent[0][1], now - self._sent[0][1]))


async def run(url: str, audio: np.ndarray, streams: int, duration_s: float, spread_s: float) -> dict[str, Any]:
    """All speakers; they begin at random within ``spread_s``, so that their chunks fall together by chance only."""
    draw = random.Random(0)
    speakers = [Speaker(audio, draw.randrange(len(audio) // _BLOCK)) for _ in range(streams)]
    starts = [draw.uniform(0, spread_s) for _ in range(streams)]
    await asyncio.gather(
        *(speaker.run(url, start, duration_s) for speaker, start in zip(speakers, starts, strict=True))
    )
    return {
        "delays": [delay for speaker in speakers for delay in speaker.delays],
        "late_p99_s": float(np.percentile([late for speaker in speakers for late in speaker.late_s] or [0.0], 99)),
        "errors": [error for speaker in speakers for error in speaker.errors],
        "cpu_s": time.process_time(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--audio", type=Path, required=True, help="int16 (n,) .npy, 16 kHz")
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--duration-s", type=float, required=True)
    parser.add_argument("--spread-s", type=float, required=True)
    given = parser.parse_args()
    audio = np.load(given.audio)
    print(json.dumps(asyncio.run(run(given.url, audio, given.streams, given.duration_s, given.spread_s))))


if __name__ == "__main__":
    main()
