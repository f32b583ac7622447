"""What was made from what: the graph of artifacts, and where this page shows things that do not belong together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mvqkd.artifacts import Artifact
from mvqkd.report.run import DECISION, STAGE_OF, Run

# Canvas of the graph: boxes in a column, edges that skip boxes in lanes to the right of it.
WIDTH = 400.0
BOX_WIDTH, BOX_HEIGHT, STEP = 284.0, 44.0, 66.0
EDGE_X, LANE_WIDTH, TOP = 8.0, 17.0, 6.0
_PORT_STEP = 6.0
_STYLES = ("one", "two", "three", "four")


@dataclass(frozen=True)
class Box:
    """An artifact in the graph; ``y`` is its upper edge."""

    y: float
    kind: str
    short_id: str
    stage: str
    made: str


@dataclass(frozen=True)
class Edge:
    """From a parent to what was made from it; ``broken``: the parent shown here is not the one it was made from."""

    path: str
    style: str
    broken: bool
    label: str


@dataclass(frozen=True)
class Lineage:
    """The graph and the artifacts in the order they are made."""

    boxes: list[Box]
    edges: list[Edge]
    height: float
    artifacts: list[Artifact]
    summary: str


def lineage(run: Run) -> Lineage:
    """Lay the graph out."""
    artifacts = [artifact for kind in STAGE_OF if (artifact := run.get(kind)) is not None]
    places = {artifact.kind: number for number, artifact in enumerate(artifacts)}
    # An artifact's parents that are shown at all, as (parent's place, its own place, whether the ids agree).
    links = [
        (places[kind], places[artifact.kind], artifacts[places[kind]].id == parent_id)
        for artifact in artifacts
        for kind, parent_id in artifact.parents.items()
        if kind in places
    ]
    lanes = _lanes([(parent, child) for parent, child, _ in links if child > parent + 1])
    edges = [_edge(artifacts, parent, child, agrees, lanes) for parent, child, agrees in sorted(links)]
    return Lineage(
        boxes=[
            Box(TOP + STEP * n, artifact.kind, artifact.short_id, artifact.stage, artifact.created_utc[:16])
            for n, artifact in enumerate(artifacts)
        ],
        edges=edges,
        height=2 * TOP + STEP * len(artifacts) - (STEP - BOX_HEIGHT),
        artifacts=artifacts,
        summary=" ".join(f"{edge.label}." for edge in edges),
    )


def contradictions(run: Run) -> Iterator[str]:
    """What on this page does not belong together, in sentences."""
    for artifact in run.artifacts.values():
        for kind, parent_id in artifact.parents.items():
            shown = run.get(kind)
            if shown is not None and shown.id != parent_id:
                yield (
                    f"The {artifact.kind} {artifact.short_id} was made from {kind} {parent_id[:12]}, "
                    f"but the one here is {shown.short_id}: run `mvqkd {artifact.stage}` again."
                )
    decision = run.get(DECISION)
    judged_against = None if decision is None else decision.facts.get("champion_id")
    if judged_against and run.champion is None:
        yield f"The gate compared with champion {judged_against[:12]}, which is not at hand here."
    if decision is None or run.champion is None:
        return
    if run.champion.id not in (judged_against, decision.facts.get("bundle_id")):
        against = f"champion {judged_against[:12]}" if judged_against else "no champion"
        yield f"The gate compared with {against}, this page with {run.champion.short_id}."


def _lanes(links: list[tuple[int, int]]) -> dict[int, int]:
    """Lane of each parent whose edges skip boxes: parents whose edges overlap have different ones."""
    reach = {parent: max(child for other, child in links if other == parent) for parent, _ in links}
    lanes: dict[int, int] = {}
    # Short ones lie next to the boxes.
    for parent in sorted(reach, key=lambda number: (reach[number] - number, number)):
        taken = {lane for other, lane in lanes.items() if parent <= reach[other] and other <= reach[parent]}
        lanes[parent] = next(lane for lane in range(len(reach)) if lane not in taken)
    return lanes


def _edge(artifacts: list[Artifact], parent: int, child: int, agrees: bool, lanes: dict[int, int]) -> Edge:
    made_from = artifacts[parent]
    label = f"{artifacts[child].kind} from {made_from.kind}" + ("" if agrees else " (another one than shown)")
    if child == parent + 1:
        top = TOP + STEP * parent + BOX_HEIGHT
        return Edge(f"M30 {top:g} V{top + STEP - BOX_HEIGHT - 1:g}", "soft", not agrees, label)
    lane = lanes[parent]
    right = EDGE_X + BOX_WIDTH
    x = right + LANE_WIDTH * (lane + 1)
    # Every lane has its own height at a box, so that edges do not lie on one another.
    offset = BOX_HEIGHT / 2 + _PORT_STEP * ((lane % 5) - 2)
    start, stop = TOP + STEP * parent + offset, TOP + STEP * child + offset
    path = f"M{right:g} {start:g} H{x - 5:g} q5 0 5 5 V{stop - 5:g} q0 5 -5 5 H{right + 1:g}"
    return Edge(path, _STYLES[lane % len(_STYLES)], not agrees, label)
