"""Metrics of a training run while it runs, into the MLflow run that an orchestrator has injected.

Only numbers travel, a row every ``log_steps`` steps, with what the process takes of the machine. A thread sends them: a
server that is slow costs no step, one that is gone costs a warning. The artifact's own history stays what counts.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvqkd.adapters.mlflow_store import connect, registry_errors
from mvqkd.errors import RegistryError

_LOG = logging.getLogger(__name__)
Row = Mapping[str, float]

# Rows that may wait for a slow server; more are dropped, as they are in the artifact anyway.
MAX_WAITING = 256
_LAST_WORDS_S = 10.0
_METRICS_A_CALL = 1000


def live_metrics(prefix: str) -> LiveMetrics | None:
    """What to call with every row of the history: it has a ``step``, all else in it becomes a metric ``prefix.name``.

    Returns:
        None where MLFLOW_RUN_ID names no run, or where its store cannot be opened.
    """
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if not run_id:
        return None
    try:
        return LiveMetrics(connect(), run_id, prefix)
    except RegistryError as error:
        _LOG.warning("no live metrics: %s", error)
        return None


class LiveMetrics:
    """Sends rows to a run from a thread of its own; the end of the process waits for the last ones, but not long."""

    def __init__(self, client: Any, run_id: str, prefix: str) -> None:
        self._client, self._run_id, self._prefix = client, run_id, prefix
        self._rows: queue.Queue[list[Any]] = queue.Queue(MAX_WAITING)
        self._usage = _Usage()
        self._failed = False
        self._dropped = 0
        threading.Thread(target=self._send, name="live-metrics", daemon=True).start()
        atexit.register(self.flush)

    def __call__(self, row: Row) -> None:
        if self._failed:
            return
        from mlflow.entities import Metric

        now_ms, step = int(1000 * time.time()), int(row["step"])
        numbers = {f"{self._prefix}.{name}": value for name, value in row.items() if name != "step"}
        metrics = [
            Metric(name, float(value), now_ms, step)
            for name, value in {**numbers, **self._usage.since_last_time()}.items()
            if math.isfinite(value)
        ]
        try:
            self._rows.put_nowait(metrics)
        except queue.Full:
            self._dropped += 1
            if self._dropped == 1:
                _LOG.warning("live metrics: the server is too slow, some rows are left out there")

    def flush(self, timeout_s: float = _LAST_WORDS_S) -> bool:
        """Wait until all rows are sent; whether they are."""
        deadline = time.monotonic() + timeout_s
        while self._rows.unfinished_tasks and not self._failed and time.monotonic() < deadline:
            time.sleep(0.02)
        return not self._rows.unfinished_tasks and not self._failed

    def _send(self) -> None:
        while not self._failed:
            batches = [self._rows.get()]
            while not self._rows.empty() and sum(map(len, batches)) < _METRICS_A_CALL // 2:
                batches.append(self._rows.get())
            try:
                with registry_errors("logging live metrics"):
                    self._client.log_batch(self._run_id, metrics=[metric for batch in batches for metric in batch])
            except RegistryError as error:
                self._failed = True  # one warning, and nobody waits any more
                _LOG.warning("no more live metrics, training goes on: %s", error)
            for _ in batches:
                self._rows.task_done()


class _Usage:
    """What this process takes of the machine, under the names by which MLflow's pages know metrics of the system."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s = time.monotonic(), time.process_time()

    def since_last_time(self) -> dict[str, float]:
        wall_s, cpu_s = time.monotonic(), time.process_time()
        elapsed_s = max(wall_s - self._wall_s, 1e-3)
        usage = {"system/process_cpu_percentage": 100 * (cpu_s - self._cpu_s) / elapsed_s}
        self._wall_s, self._cpu_s = wall_s, cpu_s
        with contextlib.suppress(OSError, ValueError, IndexError):  # elsewhere than on Linux
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            usage["system/process_memory_megabytes"] = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            usage["system/gpu_memory_megabytes"] = torch.cuda.memory_allocated() / 1e6
        return usage
