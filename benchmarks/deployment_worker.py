"""One system in a process of its own, measured from inside; run as a program by ``deployment_process``.

argv[1] is JSON: recognizer, options, mode, core. Loading is answered with one JSON line. Then stdin carries, for each
utterance, an int64 number of samples and that many float32 samples, answered with a line; the number -1 asks for what
the process has used, and ends it.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

BLOCK_S = 0.1
RATE_HZ = 16_000
END = -1


def main() -> None:
    """Load the system, answer utterances, report."""
    answers = os.fdopen(os.dup(1), "w")
    # What libraries print must not come between the answers.
    os.dup2(2, 1)

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    task = json.loads(sys.argv[1])
    os.sched_setaffinity(0, {task["core"]})
    before = peak_rss_bytes()
    started = time.perf_counter()
    from deployment_recognizers import RECOGNIZERS

    system = RECOGNIZERS[task["recognizer"]](**task["options"])
    answer({"load_s": time.perf_counter() - started})
    listen = simulate if task["mode"] == "streaming" else whole
    while (count := struct.unpack("<q", sys.stdin.buffer.read(8))[0]) != END:
        samples = np.frombuffer(sys.stdin.buffer.read(4 * count), dtype="<f4")
        cpu = time.process_time()
        heard = listen(system, samples)
        heard["cpu_s"] = time.process_time() - cpu
        if parts := getattr(system, "parts_s", None):
            heard["parts_s"] = dict(parts)
            parts.clear()
        answer(heard)
    answer({"peak_rss_bytes": peak_rss_bytes(), "python_rss_bytes": before, "files": loaded_files()})


def whole(system: Any, samples: Any) -> dict[str, Any]:
    """Recognise an utterance after its end."""
    started = time.perf_counter()
    text = system.transcribe(samples)
    wall_s = time.perf_counter() - started
    return {"text": text, "wall_s": wall_s, "final_s": wall_s, "first_text_s": len(samples) / RATE_HZ + wall_s}


def simulate(system: Any, samples: Any) -> dict[str, Any]:
    """Recognise an utterance while it arrives in blocks of 100 ms, on a clock that never sleeps.

    A block arrives when its last sample has been spoken. Work on it starts then, or when the work before it is done,
    and takes as long as is measured; so a system that falls behind is late for all that follows.
    """
    size = round(BLOCK_S * RATE_HZ)
    clock = work_s = 0.0
    text, first_text_s, first_token_s = "", None, None
    started = time.perf_counter()
    system.start()
    work_s += time.perf_counter() - started
    steps = [(min(start + size, len(samples)), samples[start : start + size]) for start in range(0, len(samples), size)]
    for end, block in [*steps, (len(samples), None)]:
        clock = max(clock, end / RATE_HZ)
        started = time.perf_counter()
        for text in system.finish() if block is None else system.feed(block):
            now = time.perf_counter()
            clock, work_s = clock + now - started, work_s + now - started
            if first_text_s is None and text.strip():
                first_text_s, first_token_s = clock, system.first_token_s()
            started = time.perf_counter()
    return {
        "text": text,
        "wall_s": work_s,
        "final_s": clock - len(samples) / RATE_HZ,
        "first_text_s": first_text_s,
        "first_token_s": first_token_s,
    }


def peak_rss_bytes() -> int:
    """Highest resident set of this process; ru_maxrss would count the parent's from before exec."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def loaded_files() -> list[str]:
    """Files of Python modules and of memory maps: what the process has needed."""
    modules = {str(getattr(module, "__file__", None) or "") for module in list(sys.modules.values())}
    maps = {line.split(maxsplit=5)[5] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    return sorted(path for path in modules | maps if path.startswith("/"))


if __name__ == "__main__":
    main()
