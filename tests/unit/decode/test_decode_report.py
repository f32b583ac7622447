"""The report's schema: what is written is read again, what contradicts itself is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mvqkd.config import EvaluateConfig, PrepareDataConfig
from mvqkd.data.prepare import prepare_data
from mvqkd.decode.evaluate import evaluate
from mvqkd.decode.report import REPORT_FILE, WerReport, build_report, row_name
from mvqkd.decode.scored_split import load_scored_split
from mvqkd.errors import ArtifactCorruptError, EmptyCutSetError
from mvqkd.testing.corpus import make_corpus
from mvqkd.testing.student import commit_student, talkative_student

REFS = ["HELLO WORLD", "GOOD DAY", "YES"]


def make_report() -> WerReport:
    return build_report(
        test_set_sha256="a" * 64,
        text_normalizer="upper-ascii-1",
        split="test",
        ids=["u1", "u2", "u3"],
        refs=REFS,
        hyps={
            ("greedy", "onnxruntime"): ["HELLO WORD", "GOOD", "YES YES"],
            ("greedy", "onnxruntime-int8"): ["HELLO WORLD", "GOOD DAY", "YES"],
            ("teacher", "teacher"): ["HELLO", "GOOD DAY", "YES"],
        },
        bootstrap_samples=200,
        seed=0,
    )


def test_rows_carry_counts_and_rates() -> None:
    report = make_report()
    record = report.row("greedy", "onnxruntime")
    assert record is not None
    assert (record.insertions, record.deletions, record.substitutions, record.words) == (1, 1, 1, 5)
    assert record.wer == pytest.approx(0.6)
    assert record.interval_95[0] <= record.wer <= record.interval_95[1]
    assert report.texts(record) == ["HELLO WORD", "GOOD", "YES YES"]
    assert report.references() == REFS
    assert report.row("greedy", "torch") is None


def test_what_is_saved_is_loaded_again_and_has_the_agreed_names(tmp_path: Path) -> None:
    report = make_report()
    report.save(tmp_path)
    assert WerReport.load(tmp_path) == report
    record = json.loads((tmp_path / REPORT_FILE).read_text())
    assert {"test_set_sha256", "text_normalizer", "split", "num_utterances", "num_words", "rows"} < set(record)
    assert set(record["rows"][0]) == {
        *("name", "decoder", "runtime", "wer", "cer", "ins", "del", "sub", "words", "interval_95", "rtf", "decode_s")
    }
    assert set(record["utterances"][0]["hyp"]) == {"onnxruntime/greedy", "onnxruntime-int8/greedy", "teacher"}


def test_speakers_stand_beside_their_utterances(tmp_path: Path) -> None:
    common = {"test_set_sha256": "a" * 64, "text_normalizer": "upper-ascii-1", "split": "test"}
    report = build_report(
        **common, ids=["u1", "u2"], refs=["A", "B"], hyps={("greedy", "torch"): ["A", "A"]}, speakers=["ann", None]
    )
    report.save(tmp_path)
    assert [utterance.speaker for utterance in WerReport.load(tmp_path).utterances] == ["ann", None]
    with pytest.raises(ValueError, match="shorter"):
        build_report(
            **common, ids=["u1", "u2"], refs=["A", "B"], hyps={("greedy", "torch"): ["A", "A"]}, speakers=["ann"]
        )


def test_a_report_of_an_older_version_names_no_speakers(tmp_path: Path) -> None:
    make_report().save(tmp_path)
    record = json.loads((tmp_path / REPORT_FILE).read_text())
    for utterance in record["utterances"]:
        del utterance["speaker"]
    (tmp_path / REPORT_FILE).write_text(json.dumps(record))
    assert WerReport.load(tmp_path) == make_report()


def test_evaluate_says_who_speaks(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path / "corpus", num_utterances=12, num_speakers=3)
    config = PrepareDataConfig(source="manifest", manifest=str(manifest), test_share=0.5)
    data = prepare_data(config, out=tmp_path / "data")
    said = {row["id"]: row["speaker"] for row in map(json.loads, manifest.read_text().splitlines())}
    scored = load_scored_split(data, "test")
    assert len(set(scored.speakers)) > 1
    assert dict(zip(scored.ids, scored.speakers, strict=True)) == {name: said[name] for name in scored.ids}
    student = commit_student(talkative_student(int(data.facts["vocab_size"])), tmp_path / "student", data)
    decoding = EvaluateConfig(decoders=["greedy"], bootstrap_samples=100, device="cpu")
    report = evaluate(decoding, data=data.path, student=student.path, out=tmp_path / "wer")
    assert [utterance.speaker for utterance in WerReport.load(report.path).utterances] == list(scored.speakers)


def test_equal_reports_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_report().save(tmp_path / name)
    assert (tmp_path / "one" / REPORT_FILE).read_bytes() == (tmp_path / "two" / REPORT_FILE).read_bytes()


def test_row_names_differ_where_decoder_or_runtime_do() -> None:
    assert row_name("greedy", "torch") == "torch/greedy"
    assert row_name("teacher", "teacher") == "teacher"


def _better_wer(record: dict[str, Any]) -> None:
    record["rows"][0]["wer"] = 0.2


def _fewer_utterances(record: dict[str, Any]) -> None:
    record["utterances"].pop()


def _text_without_row(record: dict[str, Any]) -> None:
    record["utterances"][0]["hyp"]["another"] = "TEXT"


def _row_twice(record: dict[str, Any]) -> None:
    record["rows"].append(record["rows"][0])


def _other_words(record: dict[str, Any]) -> None:
    record["num_words"] = 7


def _unknown_runtime(record: dict[str, Any]) -> None:
    record["rows"][0]["runtime"] = "tflite"


def _no_test_set(record: dict[str, Any]) -> None:
    del record["test_set_sha256"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_better_wer, "is not 3 errors / 5 words"),
        (_fewer_utterances, "num_utterances 3, but 2"),
        (_text_without_row, "utterance u1"),
        (_row_twice, "differ in name"),
        (_other_words, "5 words, the report has 7"),
        (_unknown_runtime, "runtime"),
        (_no_test_set, "test_set_sha256"),
    ],
)
def test_a_report_that_contradicts_itself_is_refused(
    tmp_path: Path, damage: Callable[[dict[str, Any]], None], said: str
) -> None:
    make_report().save(tmp_path)
    record = json.loads((tmp_path / REPORT_FILE).read_text())
    damage(record)
    (tmp_path / REPORT_FILE).write_text(json.dumps(record))
    with pytest.raises(ArtifactCorruptError, match=said):
        WerReport.load(tmp_path)


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_no_report_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / REPORT_FILE).write_text(text)
    with pytest.raises(ArtifactCorruptError):
        WerReport.load(tmp_path)


def test_a_test_set_without_words_has_no_score() -> None:
    with pytest.raises(EmptyCutSetError):
        build_report(
            test_set_sha256="a",
            text_normalizer="upper-ascii-1",
            split="test",
            ids=["u"],
            refs=[""],
            hyps={("greedy", "torch"): ["A"]},
        )
