"""Our bundle beside what users run today: speed, WER, size, memory and latency, side by side in one run.

    python benchmarks/deployment.py --data artifacts/data --bundle artifacts/bundle [--manifest TEST.jsonl]

Every system runs in a process of its own, on one thread and one processor core; they take turns at the same audio. The
peers are the extra `bench`; a system that cannot be measured is listed with the reason. `--manifest` adds a test set
of JSON lines with audio and text. Figures go to benchmarks/results/deployment.json when all is measured; `--render`
only writes docs/deployment.md from them. Development: `--limit 15 --repetitions 1 --work FOLDER` (results stay there).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deployment_page

if TYPE_CHECKING:
    from deployment_data import TestSet
    from deployment_systems import System

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "deployment.json"
PAGE = ROOT / "docs" / "deployment.md"
# Utterances that a system hears before it is another's turn: few, so that what the machine does beside hits all alike,
# but enough for a warm cache, which a deployed system has.
TURN = 10
_LOG = logging.getLogger("benchmark")
render = deployment_page.render


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "artifacts" / "data")
    parser.add_argument("--bundle", type=Path, default=ROOT / "artifacts" / "bundle")
    parser.add_argument("--manifest", type=Path, help="another test set: JSON lines of audio and text")
    parser.add_argument("--limit", type=int, help="utterances of each test set (all)")
    parser.add_argument("--repetitions", type=int, default=3, help="of everything; medians are shown")
    parser.add_argument("--systems", nargs="+", help="only those whose name begins so; --list names them")
    parser.add_argument("--list", action="store_true", help="only name the systems")
    parser.add_argument("--int8-layers", action="store_true", help="also int8 with some products left in float32")
    parser.add_argument("--work", type=Path, help="write deployment.json and deployment.md there instead")
    parser.add_argument("--render", action="store_true", help="only write the page from the results")
    arguments = parser.parse_args()
    results, page = RESULTS, PAGE
    if arguments.work:
        arguments.work.mkdir(parents=True, exist_ok=True)
        results, page = arguments.work / "deployment.json", arguments.work / "deployment.md"
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    _LOG.setLevel(logging.INFO)
    if not arguments.render:
        measured = measure(arguments)
        if measured is None:
            return
        from mvqkd.artifacts import write_json

        write_json(results, measured)
    page.write_text(render(json.loads(results.read_text(encoding="utf-8"))), encoding="utf-8")
    print(f"wrote {page}")


def measure(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Measure the chosen systems; None where they are only listed."""
    # Imported here: rendering needs none of it.
    from deployment_data import load_manifest, load_split
    from deployment_figures import findings
    from deployment_systems import PACKAGES, peers, students, write_whisper_filters
    from environment import describe

    bundle = json.loads((arguments.bundle / "bundle.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        systems = [*students(arguments.bundle, bundle), *peers(write_whisper_filters(Path(folder)))]
        if arguments.int8_layers:
            from deployment_int8 import ablations

            systems += ablations(arguments.bundle, bundle, Path(folder))
        if arguments.systems:
            systems = [system for system in systems if system.name.startswith(tuple(arguments.systems))]
        if arguments.list:
            for system in systems:
                print(system.name, f"(missing: {system.missing})" if system.missing else "")
            return None
        sets = [load_split(arguments.data, arguments.limit)]
        if arguments.manifest:
            sets.append(load_manifest(arguments.manifest, arguments.limit))
        load_average = os.getloadavg()[0]
        rows = [row for test_set in sets for row in compare(systems, test_set, arguments.repetitions)]
    return describe(PACKAGES) | {
        "command": command(sys.argv),
        "settings": {
            **{"repetitions": arguments.repetitions, "limit": arguments.limit, "turn": TURN},
            "load_average_before": load_average,
        },
        "bundle": {key: bundle[key] for key in ("lineage", "num_parameters", "token_type")},
        "sets": {test_set.name: test_set.facts() for test_set in sets},
        "rows": [{key: value for key, value in row.items() if key != "texts"} for row in rows],
        "findings": [
            {"set": test_set.name} | found
            for test_set in sets
            for found in findings([row for row in rows if row["set"] == test_set.name])
        ],
    }


def compare(systems: Sequence[System], test_set: TestSet, repetitions: int) -> list[dict[str, Any]]:
    """Let the systems take turns at a test set; a row each."""
    from deployment_figures import summarise
    from deployment_process import WorkerDiedError, start

    failed = {system.name: system.missing for system in systems if system.missing}
    heard: dict[str, list[Any]] = {system.name: [] for system in systems}
    loads: dict[str, list[float]] = {system.name: [] for system in systems}
    used: dict[str, list[Any]] = {system.name: [] for system in systems}
    core = max(os.sched_getaffinity(0))

    @contextmanager
    def reported(system: System) -> Iterator[None]:
        try:
            yield
        except WorkerDiedError as error:
            # The others are still worth their time.
            _LOG.error("%s", error)
            failed[system.name] = f"failed: {error}"

    for repetition in range(repetitions):
        started = time.monotonic()
        with ExitStack() as stack:
            workers = []
            for system in systems:
                if system.name in failed:
                    continue
                with reported(system):
                    worker = stack.enter_context(start(system, core))
                    # Untimed: the first call allocates.
                    worker.hear(test_set.audio[0])
                    workers.append(worker)
                    loads[system.name].append(worker.load_s)
                    heard[system.name].append([])
            for first in range(0, len(test_set.audio), TURN):
                # Another one begins each time, so that none always follows the same neighbour.
                shift = (repetition + first // TURN) % max(1, len(workers))
                for worker in workers[shift:] + workers[:shift]:
                    if worker.system.name in failed:
                        continue
                    with reported(worker.system):
                        turn = test_set.audio[first : first + TURN]
                        heard[worker.system.name][-1] += [worker.hear(samples) for samples in turn]
            for worker in workers:
                if worker.system.name not in failed:
                    used[worker.system.name].append(worker.usage())
        minutes = (time.monotonic() - started) / 60
        _LOG.info("%s: repetition %d of %d, %.1f min", test_set.name, repetition + 1, repetitions, minutes)
    return [
        {"set": test_set.name, **system.facts(), "missing": failed[system.name]}
        if system.name in failed
        else summarise(system, test_set, heard[system.name], loads[system.name], used[system.name])
        for system in systems
    ]


def command(argv: Sequence[str]) -> str:
    """The command line, paths outside the project by their last name alone."""
    shown = []
    for word in argv:
        path = Path(word)
        if path.is_absolute():
            word = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
        shown.append(word)
    return " ".join(["python", *shown])


if __name__ == "__main__":
    main()
