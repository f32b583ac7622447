"""The stage on real small corpora: what it accepts, rejects, splits and writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from mvqkd.artifacts import Artifact, load_artifact
from mvqkd.config import PrepareDataConfig
from mvqkd.data.audio import load_audio
from mvqkd.data.cuts import load_cuts
from mvqkd.data.prepare import prepare_data
from mvqkd.data.tokens import Tokens
from mvqkd.errors import AudioError, ConfigError, DataError, EmptyCutSetError, MvqkdError

Rows = list[dict[str, Any]]
Edit = Callable[[Callable[[Rows], None]], Path]
Prepare = Callable[..., Artifact]


def _rejections(data: Artifact) -> list[dict[str, str]]:
    return [json.loads(line) for line in (data.path / "rejected.jsonl").read_text().splitlines()]


def test_artifact_holds_cuts_tokens_and_report(corpus: Path, prepare: Prepare) -> None:
    data = prepare(corpus, test_share=0.25)
    assert data.kind == "cut-manifest"
    assert sum(data.facts["splits"].values()) == 12
    assert set(data.facts["splits"]) == {"train", "test"}
    tokens = Tokens.load(data.path)
    assert data.facts["vocab_size"] == tokens.vocab_size
    for cut in load_cuts(data, "train"):
        assert tokens.unknown_id not in tokens.encode(cut.supervisions[0].text)
    report = json.loads((data.path / "report.json").read_text())
    assert report["splits"]["train"]["cuts"] == data.facts["splits"]["train"]
    assert report["splits"]["train"]["speakers"] == 4
    assert report["rejected"] == {}
    assert _rejections(data) == []
    assert not (data.path / "audio").exists()


def test_equal_corpora_give_equal_ids_and_order_does_not_matter(corpus: Path, edit: Edit, prepare: Prepare) -> None:
    first = prepare(corpus, name="first")
    edit(lambda rows: rows.reverse())
    assert prepare(corpus, name="second").id == first.id
    edit(lambda rows: rows[0].update(text="OTHER WORDS"))
    third = prepare(corpus, name="third")
    assert third.id != first.id
    assert third.facts["test_set_sha256"] != first.facts["test_set_sha256"]


def test_report_counts_words_that_training_never_shows(corpus: Path, edit: Edit, prepare: Prepare) -> None:
    def change(rows: Rows) -> None:
        for row in rows:
            row.update(text="KNOWN WORDS", split="train")
        rows[0].update(text="KNOWN STRANGER HERE HERE", split="test")

    data = prepare(edit(change))
    oov = json.loads((data.path / "report.json").read_text())["oov"]["test"]
    assert oov == {"word_rate": 0.75, "words": 3, "distinct_words": 2, "most_frequent": ["HERE", "STRANGER"]}
    assert data.figures["test_oov_word_rate"] == {"test": 0.75}


def test_named_splits_are_kept_and_untranscribed_rows_need_no_text(corpus: Path, edit: Edit, prepare: Prepare) -> None:
    def change(rows: Rows) -> None:
        for row in rows[:3]:
            row["split"] = "test-mine"
        for row in rows[3:5]:
            row["split"] = "untranscribed"
            del row["text"]
        for row in rows[5:]:
            row["split"] = "train"

    data = prepare(edit(change))
    assert data.facts["splits"] == {"test-mine": 3, "train": 7, "untranscribed": 2}
    assert all(cut.supervisions[0].text is None for cut in load_cuts(data, "untranscribed"))


def _bad_rows(folder: Path, tone: Callable[..., None]) -> dict[str, dict[str, Any]]:
    """One unusable row for every reason, by reason."""
    audio = folder / "audio"
    (audio / "corrupt.wav").write_bytes(b"RIFF nothing")
    tone(audio / "stereo.wav", rate_hz=44_100, channels=2)
    tone(audio / "short.wav", duration_s=0.1)
    tone(audio / "long.wav", duration_s=31)
    tone(audio / "quiet.wav", gain=1e-4)
    tone(audio / "slow.wav", rate_hz=4_000)
    tone(audio / "good.wav")
    soundfile.write(audio / "nan.wav", np.full(16_000, np.nan, np.float32), 16_000, subtype="FLOAT")
    return {
        "unreadable": {"audio": "audio/corrupt.wav", "text": "A"},
        "stereo": {"audio": "audio/stereo.wav", "text": "A"},
        "too-short": {"audio": "audio/short.wav", "text": "A"},
        "too-long": {"audio": "audio/long.wav", "text": "A"},
        "silent": {"audio": "audio/quiet.wav", "text": "A"},
        "sampling-rate": {"audio": "audio/slow.wav", "text": "A"},
        "not-finite": {"audio": "audio/nan.wav", "text": "A"},
        "no-text": {"audio": "audio/good.wav"},
        "empty-text": {"audio": "audio/good.wav", "text": "?!", "id": "empty"},
        "ambiguous-number": {"audio": "audio/good.wav", "text": "IN 1984", "id": "number"},
        "duplicate-id": {"audio": "audio/good.wav", "text": "A", "id": "utterance-0000"},
    }


def test_every_unusable_recording_is_listed_and_counted(
    corpus: Path, edit: Edit, prepare: Prepare, tone: Callable[..., None]
) -> None:
    bad = _bad_rows(corpus.parent, tone)
    data = prepare(edit(lambda rows: rows.extend(bad.values())), max_rejected_share=0.5)
    assert sum(data.facts["splits"].values()) == 12
    rejections = _rejections(data)
    assert {r["reason"]: r["audio"] for r in rejections} == {reason: row["audio"] for reason, row in bad.items()}
    assert data.figures["rejected_by_reason"] == dict.fromkeys(sorted(bad), 1)
    assert data.figures["rejected"] == len(bad)


@pytest.mark.parametrize(
    ("reason", "error", "says"),
    [
        ("unreadable", AudioError, r"audio/corrupt.wav \(unreadable\): expected an audio file .*got 12 bytes"),
        ("stereo", AudioError, r"audio/stereo.wav \(stereo\): expected one channel, got 2 channels at 44100 Hz"),
        ("too-short", AudioError, r"expected at least 0.3 s, got 0.10 s"),
        ("too-long", AudioError, r"expected at most 30 s, got 31.00 s"),
        ("silent", AudioError, r"expected speech louder than -60 dB, got -83 dB"),
        ("sampling-rate", AudioError, r"got 4000 Hz"),
        ("not-finite", AudioError, r"got NaN or infinite samples"),
        ("no-text", DataError, r"audio/good.wav \(no-text\): expected a transcript, got none"),
        ("empty-text", DataError, r"got '\?!', which has none"),
        ("ambiguous-number", DataError, r"got '1984' in its text"),
        ("duplicate-id", DataError, r"expected distinct ids, got id utterance-0000 again"),
    ],
)
def test_too_many_unusable_recordings_stop_in_one_line(
    corpus: Path,
    edit: Edit,
    prepare: Prepare,
    tone: Callable[..., None],
    reason: str,
    error: type[MvqkdError],
    says: str,
) -> None:
    bad = _bad_rows(corpus.parent, tone)[reason]
    manifest = edit(lambda rows: rows.append(bad))
    with pytest.raises(error, match=says) as caught:
        prepare(manifest)
    message = str(caught.value)
    assert "(1 of 13 recordings unusable, more than the 5% of max_rejected_share)" in message
    assert "\n" not in message
    listed_in = Path(message.rpartition("listed in ")[2])
    assert json.loads(listed_in.read_text())["reason"] == reason
    assert type(caught.value) is error
    assert not (corpus.parent.parent / "data").exists()


def test_exactly_the_allowed_share_passes(corpus: Path, edit: Edit, prepare: Prepare) -> None:
    manifest = edit(lambda rows: rows[0].pop("text"))
    assert prepare(manifest, max_rejected_share=1 / 12).figures["rejected"] == 1
    with pytest.raises(DataError, match=r"\(1 of 12 recordings unusable, more than the 8% of"):
        prepare(manifest, max_rejected_share=0.08)


def test_a_mended_corpus_leaves_nothing_of_the_failed_run(
    corpus: Path, edit: Edit, prepare: Prepare, tone: Callable[..., None]
) -> None:
    clean = prepare(corpus, name="clean")
    tone(corpus.parent / "audio" / "converted.wav", rate_hz=8_000)
    (corpus.parent / "audio" / "corrupt.wav").write_bytes(b"")
    extra = [{"audio": "audio/converted.wav", "text": "A"}, {"audio": "audio/corrupt.wav", "text": "A"}]
    edit(lambda rows: rows.extend(extra))
    with pytest.raises(AudioError):
        prepare(corpus)
    edit(lambda rows: rows.__delitem__(slice(-2, None)))
    assert prepare(corpus).id == clean.id


def test_converted_audio_is_lossless_16_bit(corpus: Path, edit: Edit, prepare: Prepare) -> None:
    import av

    # Loud: a scale of 32767 instead of 32768 shows only above half of full scale.
    samples = np.random.default_rng(0).uniform(-30_000, 30_000, 16_000).astype(np.int16)
    path = corpus.parent / "audio" / "call.g722"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("g722", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None, :], format="s16", layout="mono")
        frame.sample_rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    with av.open(str(path)) as container:
        decoded = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    data = prepare(edit(lambda rows: rows.append({"audio": "audio/call.g722", "text": "A"})))
    stored, rate_hz = soundfile.read(data.path / "audio" / "audio-call.flac", dtype="int16")
    assert rate_hz == 16_000
    np.testing.assert_array_equal(stored, decoded)


def test_bpe_tokens_and_a_vocabulary_that_is_too_large(corpus: Path, prepare: Prepare) -> None:
    data = prepare(corpus, token_type="bpe", vocab_size=60)
    assert data.facts["token_type"] == "bpe"
    assert data.facts["vocab_size"] == 60
    assert (data.path / "bpe.model").is_file()
    with pytest.raises(ConfigError, match="set a smaller vocab_size"):
        prepare(corpus, name="large", token_type="bpe", vocab_size=5000)


def test_empty_and_single_recording_corpora_are_refused(corpus: Path, edit: Edit, prepare: Prepare) -> None:
    edit(lambda rows: rows.__delitem__(slice(1, None)))
    with pytest.raises(EmptyCutSetError, match=r"got 1 usable recordings of 1 distinct prompts; add recordings"):
        prepare(corpus)
    corpus.write_text("\n")
    with pytest.raises(EmptyCutSetError, match="expected recordings, got none"):
        prepare(corpus)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{not json", r"line 2: expected a JSON object"),
        ('["a"]', r"line 2: expected an object with \"audio\", .* got list"),
        ('{"text": "A"}', r"line 2: .*got keys text"),
        ('{"audio": "a.wav", "text": ["A"]}', r"line 2, field text: expected a string, got \[\"A\"\]"),
        ('{"audio": "a.wav", "text": "A", "split": "../x"}', r"line 2, field split: expected a name"),
    ],
)
def test_malformed_manifest_names_its_line(corpus: Path, prepare: Prepare, line: str, says: str) -> None:
    first = corpus.read_text().splitlines()[0]
    corpus.write_text(f"{first}\n{line}\n")
    with pytest.raises(DataError, match=says):
        prepare(corpus)


def test_missing_manifest_says_how_to_name_one(tmp_path: Path, prepare: Prepare) -> None:
    with pytest.raises(DataError, match=r"prepare-data.manifest: expected an existing file.*pass --manifest PATH"):
        prepare(tmp_path / "absent.jsonl")


def test_speakers_are_disjoint_and_must_be_named(corpus: Path, edit: Edit, prepare: Prepare) -> None:
    data = prepare(corpus, split_by="speaker", test_share=0.25)
    speakers = {
        split: {cut.supervisions[0].speaker for cut in load_cuts(data, split)} for split in data.facts["splits"]
    }
    assert speakers["train"].isdisjoint(speakers["test"])
    edit(lambda rows: rows[3].pop("speaker"))
    with pytest.raises(DataError, match=r"utterance-0003.wav: expected a speaker"):
        prepare(corpus, split_by="speaker")


def test_librispeech_layout(corpus: Path, tmp_path: Path) -> None:
    root = tmp_path / "LibriSpeech"
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    folders = ["train-clean-100", "train-clean-360", "dev-clean", "test-clean", "test-other", "train-clean-100"]
    for index, row in enumerate(rows):
        speaker = str(100 + index)
        chapter = root / folders[index % len(folders)] / speaker / "7"
        chapter.mkdir(parents=True)
        samples, rate_hz = soundfile.read(corpus.parent / row["audio"])
        soundfile.write(chapter / f"{speaker}-7-0000.flac", samples, rate_hz)
        (chapter / f"{speaker}-7.trans.txt").write_text(f"{speaker}-7-0000 {row['text']}\n")
    config = PrepareDataConfig(source="librispeech", corpus_dir=str(root), split_by="speaker")
    data = prepare_data(config, out=tmp_path / "data")
    assert data.facts["splits"] == {"dev": 2, "test-clean": 2, "test-other": 2, "train": 6}
    assert load_cuts(data, "dev")[0].supervisions[0].speaker == "102"
    with pytest.raises(DataError, match=r"no \*.trans.txt file"):
        prepare_data(config.model_copy(update={"corpus_dir": str(tmp_path / "corpus")}), out=tmp_path / "data")


def test_cuts_source_refers_to_plain_cuts_and_renders_the_rest(
    corpus: Path, tmp_path: Path, prepare: Prepare, tone: Callable[..., None]
) -> None:
    from lhotse import CutSet, Recording, SupervisionSegment

    prepared = prepare(corpus)
    cuts = [cut for split in ("train", "test") for cut in load_cuts(prepared, split)]
    first, second = cuts[0], cuts[1]
    segment = first.truncate(offset=0.25, duration=0.8, preserve_id=False).with_id("segment")
    tone(tmp_path / "t.wav", rate_hz=44_100)
    other_rate = Recording.from_file(tmp_path / "t.wav").to_cut()
    other_rate.supervisions = [SupervisionSegment("s", other_rate.recording_id, 0, other_rate.duration, text="Tone.")]
    odd = [segment, second.perturb_speed(0.9), first.append(second).with_id("mixed"), other_rate.with_id("rate")]
    CutSet.from_cuts([*cuts, *odd]).to_file(tmp_path / "cuts.jsonl.gz")
    config = PrepareDataConfig(source="cuts", cuts=str(tmp_path / "cuts.jsonl.gz"), max_rejected_share=0)
    data = prepare_data(config, out=tmp_path / "from-cuts")
    loaded = {cut.id: cut for split in data.facts["splits"] for cut in load_cuts(data, split)}
    assert set(loaded) == {cut.id for cut in [*cuts, *odd]}
    rendered = sorted(path.stem for path in (data.path / "audio").iterdir())
    assert rendered == sorted([f"{second.id}_sp0.9", "mixed", "rate"])
    np.testing.assert_array_equal(load_audio(loaded["segment"]), load_audio(first)[4000:16_800])
    assert loaded["mixed"].supervisions[0].text == (f"{first.supervisions[0].text} {second.supervisions[0].text}")
    assert load_audio(loaded["rate"]).size == 16_000
    assert load_artifact(data.path, "cut-manifest").id == data.id


def test_unreadable_cuts_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cuts.jsonl").write_text("{}\n")
    config = PrepareDataConfig(source="cuts", cuts=str(tmp_path / "cuts.jsonl"))
    with pytest.raises(DataError, match="expected a lhotse CutSet"):
        prepare_data(config, out=tmp_path / "data")
