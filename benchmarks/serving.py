"""How many people `mvqkd serve` listens to at once, and how long they wait for their words.

    python benchmarks/serving.py --bundle artifacts/bundle --data artifacts/data

starts a server on loopback, lets more and more clients stream the test split in real time (processes of their own, see
serving_client.py), and writes benchmarks/results/serving.json and the table of docs/serving.md; `--render` only the
latter. Delay: from sending the last audio of a chunk to the arrival of the result that covers it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from environment import describe
from mvqkd.artifacts import load_artifact, write_json
from serving_client import BLOCK_S
from serving_page import render

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "serving.json"
PAGE = ROOT / "docs" / "serving.md"
BLOCK = re.compile(r"<!-- serving -->\n.*?<!-- /serving -->\n", re.S)
PACKAGES = ("numpy", "onnxruntime", "starlette", "uvicorn", "websockets")
STEPS = "10:30,20:30,30:30,40:30,50:120,100:60,150:60,200:60"
WINDOW_S = 10.0
_STARTS_A_CHUNK = 20


def measure(bundle: Path, data: Path, steps: list[tuple[int, float]], options: list[str]) -> dict[str, Any]:
    """Every step in turn against one server; rows are windows of ten seconds."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        audio = Path(scratch) / "audio.npy"
        duration_s = _write_audio(data, audio)
        places = str(max(streams for streams, _ in steps) + 1)
        with _server(bundle, Path(scratch) / "log", ["--max-streams", places, *options]) as (process, url):
            idle_rss = _rss_mb(process.pid)
            with urllib.request.urlopen(f"{url}/v1/models", timeout=20) as answer:
                model = json.load(answer)["models"]["champion"]
            for streams, seconds in steps:
                rows += _step(process.pid, url, audio, streams, seconds, model["chunk_s"])
                print(json.dumps(rows[-1]), flush=True)
            peak = _status_mb(process.pid, "VmHWM")
    return {
        "model": model,
        "block_s": BLOCK_S,
        "test_audio_s": round(duration_s, 1),
        "options": options,
        "rss_idle_mb": idle_rss,
        "rss_peak_mb": peak,
        "rows": rows,
    }


def _step(pid: int, url: str, audio: Path, streams: int, seconds: float, chunk_s: float) -> list[dict[str, Any]]:
    address = url.replace("http", "ws") + "/v1/stream"
    command = [sys.executable, str(Path(__file__).with_name("serving_client.py")), "--url", address]
    command += ["--audio", str(audio), "--streams", str(streams), "--duration-s", str(seconds)]
    # A second for the client to start, then some streams a chunk: a rush of handshakes is another measurement.
    spread_s = chunk_s * -(-streams // _STARTS_A_CHUNK)
    settled_s = 1.0 + spread_s
    command[-1] = str(seconds + settled_s)
    batches = _batches(url)
    client = subprocess.Popen([*command, "--spread-s", str(spread_s)], stdout=subprocess.PIPE, text=True)
    began = time.monotonic()
    samples = [(began, _cpu_s(pid), _rss_mb(pid))]
    while client.poll() is None and time.monotonic() - began < settled_s + seconds:
        time.sleep(0.5)
        samples.append((time.monotonic(), _cpu_s(pid), _rss_mb(pid)))
    output, _ = client.communicate(timeout=90)
    heard = json.loads(output)
    calls, advanced = (after - before for before, after in zip(batches, _batches(url), strict=True))
    rows = []
    for number in range(int(seconds // WINDOW_S)):
        start = began + settled_s + number * WINDOW_S
        inside = [sample for sample in samples if start <= sample[0] <= start + WINDOW_S]
        delays = [delay for sent, delay in heard["delays"] if start <= sent < start + WINDOW_S]
        if len(inside) < 2 or not delays:
            continue
        p50, p95, p99 = (float(np.percentile(delays, share)) for share in (50, 95, 99))
        rows.append(
            {
                "streams": streams,
                "from_s": number * WINDOW_S,
                "chunks": len(delays),
                "p50_ms": round(1000 * p50, 1),
                "p95_ms": round(1000 * p95, 1),
                "p99_ms": round(1000 * p99, 1),
                "max_ms": round(1000 * max(delays), 1),
                "server_cores": round((inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0]), 3),
                "rss_mb": inside[-1][2],
                "mean_batch": round(advanced / max(1, calls), 2),
                "client_cores": round(heard["cpu_s"] / (settled_s + seconds), 3),
                "client_late_p99_ms": round(1000 * heard["late_p99_s"], 1),
                "errors": len(heard["errors"]),
            }
        )
    for error in heard["errors"][:3]:
        print(error, file=sys.stderr)
    return rows


@contextmanager
def _server(bundle: Path, log: Path, options: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    command = [sys.executable, "-m", "mvqkd", "serve", "--bundle", str(bundle), "--port", "0", *options]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    try:
        while not (found := re.search(r" at (http://\S+) ", log.read_text())):
            if process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.1)
        yield process, found[1]
    finally:
        process.terminate()
        process.wait(60)


def _write_audio(data: Path, file: Path) -> float:
    """The test split, one utterance after another, int16 at 16 kHz; its seconds."""
    from mvqkd.data.audio import load_audio
    from mvqkd.decode.scored_split import load_scored_split

    split = load_scored_split(load_artifact(data, "cut-manifest"), "test")
    samples = np.concatenate([load_audio(cut) for cut in split.cuts])
    np.save(file, np.clip(np.rint(samples * 32767), -32768, 32767).astype("<i2"))
    return split.duration_s


def _batches(url: str) -> tuple[float, float]:
    """Calls of the recogniser so far, and streams that they advanced."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    calls, advanced = (
        float(re.findall(rf"^mvqkd_chunk_batch_size_{what} (\S+)$", text, re.M)[0]) for what in ("count", "sum")
    )
    return calls, advanced


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mb(pid: int) -> float:
    return _status_mb(pid, "VmRSS")


def _status_mb(pid: int, name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    assert found is not None
    return round(int(found[1]) * 1024 / 1e6, 1)


def _steps(text: str) -> list[tuple[int, float]]:
    return [(int(streams), float(seconds)) for streams, seconds in (step.split(":") for step in text.split(","))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("artifacts/bundle"))
    parser.add_argument("--data", type=Path, default=Path("artifacts/data"))
    parser.add_argument("--steps", type=_steps, default=_steps(STEPS), help=f"STREAMS:SECONDS,... ({STEPS})")
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--render", action="store_true", help="only write docs/serving.md from the results")
    given = parser.parse_args()
    if not given.render:
        found = measure(given.bundle, given.data, given.steps, ["--int8"] if given.int8 else [])
        write_json(given.out, describe(PACKAGES) | found)
    if given.out == RESULTS:
        block = render(json.loads(RESULTS.read_text(encoding="utf-8")))
        PAGE.write_text(BLOCK.sub(lambda _: block, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        print("wrote docs/serving.md")


if __name__ == "__main__":
    main()
