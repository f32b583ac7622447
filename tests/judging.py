"""The gate on a made-up lineage, a report of it on a further test set, an artifact with one file replaced."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mvqkd.artifacts import Artifact, PartialArtifact
from mvqkd.config import GateConfig
from mvqkd.promotion.stage import gate
from mvqkd.testing.lineage import Lineage, make_report


def judge(
    lineage: Lineage, *, champion: Path | None = None, other_reports: Sequence[Path] = (), **config: Any
) -> Artifact:
    """Run the gate."""
    return gate(
        GateConfig(**config),
        bundle=lineage.bundle.path,
        wer_report=lineage.wer_report.path,
        quantizer=lineage.quantizer.path,
        champion=champion,
        other_reports=other_reports,
        out=lineage.root / "decision",
    )


def further(lineage: Lineage, wer: float, name: str = "far", **head: Any) -> Path:
    """A report of the lineage's student on another test set."""
    head = {
        "test_set_sha256": "e" * 64,
        "text_normalizer": "upper-ascii-1",
        "split": name,
        "num_utterances": 112,
    } | head
    text = make_report(head, {("greedy", "torch"): wer})
    return rewritten(lineage.wer_report, lineage.root / f"wer-{name}", "wer.json", text)


def rewritten(artifact: Artifact, out: Path, name: str, text: str) -> Path:
    """The same artifact with one file replaced, committed as a stage would."""
    partial = PartialArtifact(out, artifact.kind, stage=artifact.stage, config=artifact.config)
    partial.parents = dict(artifact.parents)
    for file in artifact.files:
        shutil.copyfile(artifact.path / file, partial.path / file)
    (partial.path / name).write_text(text)
    return partial.commit(facts=artifact.facts, figures=artifact.figures).path
