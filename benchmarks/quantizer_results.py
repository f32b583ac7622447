"""The results file: rows by section and unit, each with the run that measured it; written after every unit.

A unit is what is measured together, in one run. Its settings are kept as a hash with its rows: a unit that is there
with equal settings, ours and the peers' versions among them, is not measured again.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvqkd.artifacts import content_hash, write_json

Row = dict[str, Any]
_LOG = logging.getLogger("benchmark")


@dataclass(frozen=True)
class Unit:
    """One measurement.

    Attributes:
        name: unique in its section.
        data: letter of its set.
        settings: JSON, all that decides about its rows.
        weight: its share of the section's time, in any unit.
        measure: gives its rows.
        timed: it must be alone on the machine.
    """

    name: str
    data: str
    settings: Any
    weight: float
    measure: Callable[[], list[Row]]
    timed: bool = True


class Results:
    """Rows and runs, in memory and on disk; ``failed`` names the units whose process died."""

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        self.path, self._lock = path, threading.Lock()
        self.failed: list[str] = []
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"rows": [], "runs": {}}
        self.rows: list[Row] = content["rows"]
        self.runs: dict[str, Any] = content["runs"]
        self._run, self._run_id = run, content_hash(run)[:12]

    def measure(self, section: str, units: Sequence[Unit], *, jobs: int = 1, again: bool = False) -> None:
        """Measure the units that are not there yet; rows of these sets that no unit names go.

        Args:
            jobs: units measured side by side where nothing is timed, after the others.
            again: measure also what is there.
        """
        hashes = {unit.name: content_hash([unit.name, unit.settings])[:12] for unit in units}
        sets = {unit.data for unit in units}
        known = set() if again else {row["settings"] for row in self.rows if row["section"] == section}
        pending = [unit for unit in units if hashes[unit.name] not in known]
        kept = {hashes[unit.name] for unit in units if unit not in pending}
        self.rows = [
            row for row in self.rows if row["section"] != section or row["data"] not in sets or row["settings"] in kept
        ]
        order = {unit.name: number for number, unit in enumerate(units)}
        _LOG.info("%s: %d units, %d of them measured before", section, len(units), len(units) - len(pending))
        started, done = time.monotonic(), 0.0
        total = sum(unit.weight for unit in pending)

        def place_in_file(row: Row) -> tuple[str, int]:
            return row["section"], order.get(row["unit"], 0) if row["section"] == section else 0

        def run(unit: Unit) -> None:
            nonlocal done
            unit_started = time.monotonic()
            try:
                rows = unit.measure()
            except BrokenProcessPool:
                # The others are still worth hours of measuring.
                _LOG.error("%s, %s: a measuring process died (killed? out of memory?)", section, unit.name)
                self.failed.append(f"{section}, {unit.name}")
                return
            with self._lock:
                done += unit.weight
                for row in rows:
                    place = {"section": section, "unit": unit.name, "data": unit.data, "settings": hashes[unit.name]}
                    self.rows.append(place | {"run": self._run_id} | row)
                self.rows.sort(key=place_in_file)
                self.write()
                now = time.monotonic()
                left = (now - started) / done * (total - done)
                _LOG.info(
                    "%s, %s: done in %.0f s; about %.0f min left of this section",
                    *(section, unit.name, now - unit_started, left / 60),
                )

        for unit in pending:
            if unit.timed:
                run(unit)
        with ThreadPoolExecutor(jobs) as pool:
            for future in [pool.submit(run, unit) for unit in pending if not unit.timed]:
                future.result()
        self.write()

    def write(self) -> None:
        """Write what is there; runs without rows go."""
        runs = self.runs | {self._run_id: self._run}
        used = {row["run"] for row in self.rows}
        self.runs = {key: run for key, run in runs.items() if key in used}
        content = {"rows": self.rows, "runs": self.runs}
        write_json(self.path, {key: self._run[key] for key in ("command", "machine", "versions")} | content)
