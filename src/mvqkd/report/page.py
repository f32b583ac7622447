"""One run as one HTML page that needs nothing but itself: no script, no font, no picture from anywhere.

The page is a function of the artifacts: equal artifacts give equal bytes. All text goes through the template's
escaping, and what is invisible in it, or turns the direction of writing, is spelled out; a policy in the page forbids
the browser to load or run anything, so that a fault in the escaping would still do nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvqkd.artifacts import Artifact, atomic_open, load_artifact
from mvqkd.report.clips import Clip, clips
from mvqkd.report.codec import codec
from mvqkd.report.corpus import corpus
from mvqkd.report.environment import environment
from mvqkd.report.lineage import lineage
from mvqkd.report.run import BUNDLE, DATA, Missing, Run
from mvqkd.report.speed import speed
from mvqkd.report.text import FILTERS, visible
from mvqkd.report.theme import variables
from mvqkd.report.training import training
from mvqkd.report.utterances import Texts, Worst, changes, confusions, texts_of, worst
from mvqkd.report.verdict import gate, verdict
from mvqkd.report.wer_table import wer_tables

if TYPE_CHECKING:
    from jinja2 import Environment

DEFAULT_AUDIO = 5


@dataclass(frozen=True)
class Section:
    """A part of the page: ``content`` is what its template shows, or why it is left out."""

    id: str
    title: str
    content: Any

    @property
    def missing(self) -> str | None:
        """Why the section is left out; None where it is not."""
        return self.content.reason if isinstance(self.content, Missing) else None


def run_report(
    artifacts: Mapping[str, Artifact],
    *,
    champion: Path | None = None,
    other_reports: Sequence[Artifact] = (),
    audio: int = DEFAULT_AUDIO,
) -> str:
    """Render the page of a run.

    Args:
        artifacts: kind -> artifact, as many as there are; what is missing leaves its section out, with the reason.
        champion: directory of the bundle to compare with; None: there is none.
        other_reports: wer-reports of the same student on further test sets.
        audio: how many of the worst utterances can be listened to; 0 reads no recording.
    Raises:
        ArtifactError: the champion is missing or damaged, or a file does not hold what its kind should.
    """
    rival = None if champion is None else load_artifact(champion, "onnx-bundle")
    run = Run(artifacts, rival, other_reports)
    decided = gate(run)
    texts = texts_of(run)
    worst_heard = texts if isinstance(texts, Missing) else worst(texts)
    sections = [
        Section("gate", "Gate", decided),
        Section("wer", "Word error rates", wer_tables(run)),
        Section("changes", "What changed against the champion", _of(texts, changes)),
        Section("worst", "Worst utterances", worst_heard),
        Section("confusions", "Confused words", _of(texts, confusions)),
        Section("training", "Training", training(run)),
        Section("quantizer", "Quantizer", codec(run)),
        Section("data", "Data", corpus(run)),
        Section("speed", "Size and parity", speed(run)),
        Section("lineage", "Lineage", lineage(run)),
        Section("environment", "Environment and parameters", environment(run)),
    ]
    environment_of_templates = _environment()
    style = environment_of_templates.get_template("report.css").render(light=variables(0), dark=variables(1))
    page: str = environment_of_templates.get_template("report.html").render(
        run=run,
        bundle=run.get(BUNDLE),
        verdict=verdict(run, decided),
        sections=sections,
        clips=_clips(run, texts, worst_heard, audio),
        style=style,
        style_digest=_digest(style),
    )
    return page


def write_report(page: str, file: Path) -> None:
    """Write a page, whole or not at all."""
    with atomic_open(file) as stream:
        stream.write(page)


def _of(texts: Texts | Missing, look: Any) -> Any:
    return texts if isinstance(texts, Missing) else look(texts)


def _clips(run: Run, texts: Texts | Missing, heard: Worst | Missing, most: int) -> dict[str, Clip]:
    data = run.get(DATA)
    if most < 1 or data is None or isinstance(texts, Missing) or isinstance(heard, Missing):
        return {}
    return clips(data, texts.report.split, [utterance.id for utterance in heard.utterances[:most]])


def _digest(style: str) -> str:
    """What the page's policy calls its own style sheet by: no other one applies."""
    return "sha256-" + base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mvqkd.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=visible,
    )
    environment.filters.update(FILTERS)
    return environment
