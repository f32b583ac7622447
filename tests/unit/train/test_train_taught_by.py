"""Whose lessons a student's card names."""

from __future__ import annotations

from pathlib import Path

from mvqkd.testing.lineage import make_lineage
from mvqkd.train.stage import _taught_by


def test_the_nearest_parent_that_names_a_teacher(tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path)
    indexes = lineage.codebook_indexes.facts
    taught = _taught_by([lineage.data, lineage.codebook_indexes, lineage.data])
    assert taught == {"teacher_id": indexes["teacher_id"], "teacher_layer": indexes["layer"]}
    assert _taught_by([lineage.data]) == {}
