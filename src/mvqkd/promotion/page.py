"""The decision as one HTML page that needs no network: what Kubeflow shows beside the gate's step."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from mvqkd.artifacts import Artifact
from mvqkd.promotion.files import DECISION_FILE
from mvqkd.promotion.verdict import percent, points

if TYPE_CHECKING:
    from jinja2 import Environment


def decision_page(decision: Artifact) -> str:
    """Render a promotion-decision: the verdict on top, below it every check with figure, threshold and reason, then the
    figures of the comparison with the champion."""
    record: dict[str, Any] = json.loads((decision.path / DECISION_FILE).read_text(encoding="utf-8"))
    return _environment().get_template("decision.html").render(decision=decision, record=record)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mvqkd.promotion"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"shown": _shown, "percent": percent, "points": _points}
    return environment


def _points(difference: float | str) -> str:
    # An interval without any words is the text "nan" in JSON.
    return points(float(difference))


def _shown(figure: Any) -> str:
    if figure is None:
        return "–"
    if isinstance(figure, float):
        return f"{figure:.4g}"
    # Digests identify by their beginning; the whole of them would fill the table.
    return str(figure) if len(str(figure)) < 40 else f"{str(figure)[:12]}…"
