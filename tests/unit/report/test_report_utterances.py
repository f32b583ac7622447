"""Worst utterances, what changed, confusions: counted by hand."""

from __future__ import annotations

import pytest

from mvqkd.report.comparison import rival_of
from mvqkd.report.run import Missing, Run
from mvqkd.report.utterances import align, changes, confusions, texts_of, worst
from tests.unit.report.made_run import Made, make_bundle, make_student


def heard_by_length(ref: str) -> str:
    """Nothing of long utterances, all of short ones, the middle ones with a word too many."""
    words = len(ref.split())
    return "" if words == 4 else ref if words == 2 else f"{ref} UH"


@pytest.fixture(scope="module")
def run(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("texts")
    student = make_student(root, made)
    bundle = make_bundle(root, made, student, {("greedy", "onnxruntime"): heard_by_length})
    champion = make_bundle(root, made, student, {("greedy", "onnxruntime"): lambda ref: f"{ref} UH UH"}, "champion")
    return Run({bundle.kind: bundle}, champion)


def test_worst_first(run: Run) -> None:
    texts = texts_of(run)
    assert not isinstance(texts, Missing)
    lengths = [len(utterance.ref.split()) for utterance in texts.report.utterances]
    assert {2, 3, 4} == set(lengths), "the corpus has utterances of every length"
    found = worst(texts)
    assert not isinstance(found, Missing)
    errors = [utterance.challenger.errors for utterance in found.utterances]
    assert errors == ([4] * lengths.count(4) + [1] * lengths.count(3))[:10]
    assert found.perfect == lengths.count(2)
    assert found.num_utterances == len(lengths)
    total = 4 * lengths.count(4) + lengths.count(3)
    assert found.share_of_errors == pytest.approx(sum(errors) / total)
    # Equal numbers of errors are in the order of the ids.
    ids = [utterance.id for utterance in found.utterances if utterance.challenger.errors == 4]
    assert ids == sorted(ids)


def test_better_and_worse_than_the_champion(run: Run) -> None:
    texts = texts_of(run)
    assert not isinstance(texts, Missing)
    lengths = [len(utterance.ref.split()) for utterance in texts.report.utterances]
    found = changes(texts)
    assert not isinstance(found, Missing)
    # The champion has two errors everywhere; the challenger 0, 1 or 4.
    assert (found.better, found.worse, found.same) == (lengths.count(2) + lengths.count(3), lengths.count(4), 0)
    assert [(u.challenger.errors, u.champion and u.champion.errors) for u in found.most_worse] == [(4, 2)] * min(
        5, lengths.count(4)
    )
    assert found.most_better[0].challenger.errors == 0


def test_confusions_are_counted(run: Run) -> None:
    texts = texts_of(run)
    assert not isinstance(texts, Missing)
    lengths = [len(utterance.ref.split()) for utterance in texts.report.utterances]
    found = confusions(texts)
    assert not isinstance(found, Missing)
    kinds = {kind.operation: kind for kind in found.kinds}
    assert kinds["inserted"].total == lengths.count(3)
    assert kinds["inserted"].repeated == [(None, "UH", lengths.count(3))]
    assert kinds["deleted"].total == 4 * lengths.count(4)
    assert kinds["substituted"].total == 0
    words = [word for u in texts.report.utterances if len(u.ref.split()) == 4 for word in u.ref.split()]
    once = sorted(word for word in words if words.count(word) == 1)
    assert [ref for ref, _ in kinds["deleted"].single] == once[:60]
    assert sum(times for _, _, times in kinds["deleted"].repeated) + kinds["deleted"].num_single == len(words)


def test_alignment() -> None:
    found = align("ONE TWO THREE FOUR", "ONE TOO THREE AND FOUR")
    assert [(word.operation, word.ref, word.hyp) for word in found.words] == [
        ("same", "ONE", "ONE"),
        ("substituted", "TWO", "TOO"),
        ("same", "THREE", "THREE"),
        ("inserted", None, "AND"),
        ("same", "FOUR", "FOUR"),
    ]
    assert found.errors == 2
    long = align("A " * 500, "A " * 490)
    assert (len(long.words), long.left_out, long.errors) == (200, 300, 10)
    assert align("", "").words == []


def test_a_champion_without_that_row(made: Made, run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("other")
    other = make_bundle(root, made, make_student(root, made), {("ctc_greedy", "onnxruntime"): str})
    alone = Run(run.artifacts, other)
    assert not isinstance(rival_of(alone), Missing)
    texts = texts_of(alone)
    assert not isinstance(texts, Missing)
    found = changes(texts)
    assert isinstance(found, Missing)
    assert "has no row onnxruntime/greedy" in found.reason
