"""Nodes of an Argo workflow as a run of Kubeflow Pipelines shows them."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

_BEGINNING = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)


class Workflow:
    """Nodes of an Argo workflow, as ``task_details`` of a run shows them: short names, and ids of children only."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[dict[str, Any]] = []

    def add(
        self,
        full_name: str,
        state: str | None,
        start: int = 0,
        end: int | None = None,
        children: tuple[str, ...] = (),
    ) -> Workflow:
        """Add a node.

        Args:
            full_name: after the workflow's name: ``root.train-student.executor(0)``.
            state: None: one that the API has no word for (Omitted).
            start, end: seconds; ``end`` is None while it runs.
            children: full names of the nodes after it.
        """
        node: dict[str, Any] = {
            "task_id": str(uuid.uuid4()),
            "display_name": full_name.rpartition(".")[2],
            "start_time": _at(start),
            # The year 1 is how Go writes no time.
            "end_time": "0001-01-01T00:00:00Z" if end is None else _at(end),
            "child_tasks": [{"pod_name": self._id(child)} for child in children],
        }
        if state is not None:
            node["state"] = state
        self.nodes.append(node)
        return self

    def details(self) -> dict[str, Any]:
        """The ``run_details`` of a run."""
        return {"task_details": self.nodes}

    def _id(self, full_name: str) -> str:
        digest = 2166136261
        for byte in f"{self.name}.{full_name}".encode():
            digest = ((digest ^ byte) * 16777619) % 2**32
        return f"{self.name}-{digest}"


def _at(seconds: int) -> str:
    return (_BEGINNING + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
