"""Say what a TrainJob does while it runs: its state, its pods, their logs, and whatever goes wrong."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mvqkd.adapters.trainjob_api import TrainJobApi
from mvqkd.errors import TrainingError

_LOG = logging.getLogger("mvqkd.launch")

_INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
# Ages of log lines.
_ALL_S, _OVERLAP_S = 10.0**6, 5
_KEPT_LINES, _KEPT_TROUBLES = 5, 5
# Reasons of waiting containers that are part of a good start.
_USUAL_WAITING = ("ContainerCreating", "PodInitializing")

Phase = Literal["created", "running", "suspended", "complete", "failed"]


@dataclass(frozen=True)
class State:
    """What a TrainJob's conditions say."""

    phase: Phase
    detail: str = ""


def state_of(job: Mapping[str, Any]) -> State:
    """Read the conditions of a TrainJob; a job's end outweighs what else they say."""
    status = job.get("status") or {}
    held = {
        condition["type"]: condition for condition in status.get("conditions") or [] if condition["status"] == "True"
    }
    ends: tuple[tuple[str, Phase], ...] = (("Failed", "failed"), ("Complete", "complete"), ("Suspended", "suspended"))
    for name, phase in ends:
        if name in held:
            reason, message = held[name].get("reason", ""), held[name].get("message", "")
            return State(phase, ": ".join(part for part in (reason, message) if part))
    active = any(entry.get("active") or entry.get("ready") for entry in status.get("jobsStatus") or [])
    return State("running" if active else "created")


class TrainJobWatch:
    """Looks at one TrainJob again and again and prints what is new. It says once that logs or events are refused."""

    def __init__(self, api: TrainJobApi, name: str) -> None:
        self._api, self._name = api, name
        self._status = ""
        self._shown: set[str] = set()
        self._troubles: deque[str] = deque(maxlen=_KEPT_TROUBLES)
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._logs: dict[str, _PodLog] = {}

    def look(self, job: Mapping[str, Any]) -> State:
        """Print what has changed; give the job's state."""
        state = state_of(job)
        pods = self._tolerated(self._api.pods) or []
        ready = sum(_is_ready(pod) for pod in pods)
        self._say(f"{state.phase}{f' ({state.detail})' if state.detail else ''}, {ready}/{len(pods)} pods ready")
        for event in self._tolerated(self._api.warnings) or []:
            about = event.get("involvedObject", {})
            self._trouble(
                f"{about.get('kind', 'object')} {about.get('name')}", event.get("reason"), event.get("message")
            )
        for pod in pods:
            self._container_troubles(pod)
        self._relay_logs(pods)
        return state

    @property
    def last_words(self) -> str:
        """The latest troubles and lines of the log, for an error message."""
        return " | ".join(dict.fromkeys([*self._troubles, *(line for line in self._lines if line)]))

    def _say(self, status: str) -> None:
        if status != self._status:
            _LOG.info("trainjob %s: %s", self._name, status)
            self._status = status

    def _trouble(self, about: str, reason: str | None, message: str | None) -> None:
        text = f"{about}: {': '.join(part for part in (reason, message) if part)}"
        if text not in self._shown:
            self._shown.add(text)
            self._troubles.append(text)
            _LOG.warning("trainjob %s: %s", self._name, text)

    def _container_troubles(self, pod: Mapping[str, Any]) -> None:
        about = f"Pod {pod['metadata']['name']}"
        for container in (pod.get("status") or {}).get("containerStatuses") or []:
            state, last = container.get("state") or {}, container.get("lastState") or {}
            waiting = state.get("waiting") or {}
            if waiting.get("reason") not in (None, *_USUAL_WAITING):
                self._trouble(about, waiting["reason"], waiting.get("message"))
            for ended in (state.get("terminated"), last.get("terminated")):
                if ended and ended.get("exitCode"):
                    self._trouble(about, ended.get("reason"), f"exit code {ended['exitCode']}")

    def _relay_logs(self, pods: Sequence[Mapping[str, Any]]) -> None:
        """Print the new lines of all pods: where rank 0 runs is torch's choice, and the others speak of faults only."""
        for pod in sorted(pods, key=lambda one: str(one["metadata"].get("creationTimestamp", ""))):
            name, node = pod["metadata"]["name"], (pod["metadata"].get("labels") or {}).get(_INDEX_LABEL, "0")
            log = self._logs.setdefault(name, _PodLog())
            text = self._tolerated(lambda _, name=name, log=log: self._api.log(name, log.age_s()))
            for line in () if text is None else log.new_lines(text):
                print(line if node == "0" else f"node {node}: {line}", file=sys.stderr, flush=True)
                self._lines.append(line.strip())

    def _tolerated(self, function: Any) -> Any:
        """What ``function`` gives for this job; None where it may not be asked, which does not stop a training."""
        try:
            return function(self._name)
        except TrainingError as error:
            if error.subject not in self._shown:
                self._shown.add(error.subject)
                _LOG.warning("%s", error)
            return None


class _PodLog:
    """How far a pod's log has been read.

    Logs are asked for by age, in whole seconds. So what was read is asked for again, and left out by its time.
    """

    def __init__(self) -> None:
        self._asking_at_s = self._read_at_s = -_ALL_S
        self._read_up_to = ""

    def age_s(self) -> int:
        """For how many seconds to ask now: since the last answer."""
        self._asking_at_s = time.monotonic()
        return int(self._asking_at_s - self._read_at_s) + _OVERLAP_S

    def new_lines(self, text: str) -> list[str]:
        """Lines that were not there before, without their times."""
        self._read_at_s = self._asking_at_s
        # Times are of equal length and zone: they compare as texts.
        stamped = [line.partition(" ") for line in text.splitlines()]
        new = [line for stamp, _, line in stamped if stamp > self._read_up_to]
        self._read_up_to = max([self._read_up_to, *(stamp for stamp, _, _ in stamped)])
        return new


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
