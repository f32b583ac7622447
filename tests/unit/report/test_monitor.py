"""``monitor`` on sound: silent where nothing has changed, loud where something has, refusing where it cannot tell."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from mvqkd.data.audio import read_audio
from mvqkd.data.cuts import load_cuts
from mvqkd.decode.report import build_report
from mvqkd.decode.scoring import ErrorCounts
from mvqkd.errors import ArtifactMismatchError, AudioError, DataError
from mvqkd.report.baseline import Baseline, baseline_with_teacher
from mvqkd.report.listening import listen_to
from mvqkd.report.monitor import Limits, monitor
from mvqkd.report.recordings import Recording, from_cuts, from_file, from_manifest
from mvqkd.report.word_drift import compare_words
from mvqkd.testing.corpus import WORDS, synthesize
from mvqkd.testing.tones import make_tone_bundle, say
from tests.unit.report.made_run import Made

Floats = NDArray[np.float32]
FAST = Limits(resamples=200)


@pytest.fixture(scope="module")
def baseline(made: Made) -> Baseline:
    return baseline_with_teacher(
        made.teacher,
        quantizer=made.quantizer,
        teacher_embeddings=made.embeddings,
        codebook_indexes=made.indexes.path,
        device="cpu",
    )


@pytest.fixture(scope="module")
def pool() -> list[Floats]:
    """New recordings of the same speakers and words."""
    rng = np.random.default_rng(77)
    return [
        synthesize([str(word) for word in rng.choice(WORDS, rng.integers(2, 5), replace=False)], speaker=n % 4, rng=rng)
        for n in range(100)
    ]


def recordings(audio: list[Floats], text: str | None = None) -> list[Recording]:
    return [Recording(f"recording-{n}", lambda samples=samples: samples, text) for n, samples in enumerate(audio)]


def noisy(samples: Floats) -> Floats:
    return (samples + 0.02 * np.random.default_rng(0).standard_normal(len(samples))).astype(np.float32)


def narrow(samples: Floats) -> Floats:
    return np.asarray(soxr.resample(soxr.resample(samples, 16_000, 2_000), 2_000, 16_000), dtype=np.float32)


CHANGES: dict[str, Callable[[Floats], Floats]] = {
    "noise": noisy,
    "a narrow band": narrow,
    "a low level": lambda samples: samples * np.float32(0.1),
    "clipping": lambda samples: np.clip(6 * samples, -0.3, 0.3),
    "a dead microphone": lambda samples: np.zeros_like(samples),
}


def test_the_same_speech_is_no_drift_however_often_one_looks(baseline: Baseline, pool: list[Floats]) -> None:
    """Random days of 30 recordings: of 40, at most one alarm."""
    rng = np.random.default_rng(3)
    limits = Limits(resamples=100, max_error_change=0.01, max_usage_divergence=1e-6)
    alarms = 0
    for _ in range(40):
        day = [pool[place] for place in rng.permutation(len(pool))[:30]]
        # Any change is large enough here: only the calibration keeps it quiet.
        alarms += monitor(recordings(day), baseline, limits).drift
    assert alarms <= 1


@pytest.mark.parametrize("change", CHANGES)
def test_other_sound_is_drift(baseline: Baseline, pool: list[Floats], change: str) -> None:
    found = monitor(recordings([CHANGES[change](samples) for samples in pool[:30]]), baseline, FAST)
    assert found.drift, [check.explanation for check in found.checks]


def test_small_changes_are_no_drift_by_the_limits(baseline: Baseline, pool: list[Floats]) -> None:
    changed = [noisy(samples) for samples in pool[:30]]
    found = monitor(recordings(changed), baseline, FAST)
    sizes = {check.name: abs(check.change) for check in found.checks}
    generous = Limits(
        resamples=200,
        max_error_change=1.01 * sizes["relative error"],
        max_usage_divergence=1.01 * sizes["usage divergence"],
    )
    assert not monitor(recordings(changed), baseline, generous).drift
    strict = Limits(resamples=200, max_error_change=99.0, max_usage_divergence=0.99 * sizes["usage divergence"])
    assert [check.verdict for check in monitor(recordings(changed), baseline, strict).checks] == ["fine", "drift"]


def test_too_few_draws_can_never_be_sure(baseline: Baseline, pool: list[Floats]) -> None:
    """Chance is at least 1 / (draws + 1): of ten draws no change can be as unlikely as 0.5 %."""
    found = monitor(recordings([noisy(samples) for samples in pool[:30]]), baseline, Limits(resamples=10))
    assert not found.drift
    assert all(check.chance == pytest.approx(1 / 11) for check in found.checks)


def test_what_is_said(baseline: Baseline, pool: list[Floats], made: Made) -> None:
    audio = [noisy(pool[0]), *pool[1:30]]
    found = monitor(recordings(audio), baseline, FAST)
    record = json.loads(json.dumps(found.to_json()))
    assert record["recordings"] == 30
    assert record["duration_s"] == pytest.approx(sum(map(len, audio)) / 16_000, abs=0.1)
    assert record["worst"][0]["id"] == "recording-0"
    assert [row["relative_error"] for row in record["worst"]] == sorted(
        (row["relative_error"] for row in record["worst"]), reverse=True
    )
    assert len(record["divergence_by_codebook"]) == 2
    assert record["baseline"]["quantizer_id"] == made.quantizer.id
    assert np.mean(record["divergence_by_codebook"]) == pytest.approx(record["checks"][1]["figure"], abs=1e-5)
    metrics = found.metrics()
    assert metrics["drift"] == float(found.drift)
    assert metrics["relative_error"] == record["checks"][0]["figure"]
    assert all(isinstance(value, float) for value in metrics.values())


def test_the_reference_is_the_quantizers_own_held_out_error(baseline: Baseline, made: Made) -> None:
    recorded = made.quantizer.figures["relative_error"]
    # The report holds errors against the mean of the held-out frames, this one against the codec's.
    assert baseline.errors.relative == pytest.approx(recorded, rel=0.03)
    assert len(baseline.errors.errors) == made.quantizer.figures["held_out_frames"]


def test_usage_comes_from_the_store_at_its_own_speed(baseline: Baseline, made: Made) -> None:
    frames = made.indexes.facts["num_frames"]
    assert "codebook indexes of" in baseline.source
    # The store has the cuts at two speeds; the slower copies are longer.
    assert 0.4 * frames < len(baseline.usage.codes) < 0.5 * frames
    sampled = baseline_with_teacher(
        made.teacher, quantizer=made.quantizer, teacher_embeddings=made.embeddings, device="cpu"
    )
    assert len(sampled.usage.codes) == made.embeddings.facts["num_frames"]
    assert "sampled frames" in sampled.source
    assert sampled.usage.counts().sum(axis=1).tolist() == [len(sampled.usage.codes)] * 2


def test_a_store_of_another_quantizer_is_refused(made: Made, tmp_path: Path) -> None:
    other = dataclasses.replace(made.quantizer, id="f" * 64)
    with pytest.raises(ArtifactMismatchError, match="indexes of quantizer ffffffffffff"):
        baseline_with_teacher(
            made.teacher, quantizer=other, teacher_embeddings=made.embeddings, codebook_indexes=made.indexes.path
        )


def test_too_little_to_tell(baseline: Baseline, pool: list[Floats]) -> None:
    with pytest.raises(DataError, match="at least 25, to tell a change from chance, got 24"):
        monitor(recordings(pool[:24]), baseline, FAST)
    with pytest.raises(DataError, match="got 0 that can be read"):
        monitor([], baseline, FAST)


def _broken() -> Floats:
    raise AudioError("recording broken.wav", expected="audio", got="noughts", next_step="mend it")


def test_damaged_recordings_are_left_out_and_named(baseline: Baseline, pool: list[Floats]) -> None:
    damaged = Recording("broken", _broken)
    found = monitor([damaged, *recordings(pool[:30])], baseline, FAST)
    assert found.recordings == 30
    assert found.unreadable == ["recording broken.wav: expected audio, got noughts; mend it"]
    with pytest.raises(DataError, match="at most 10% that cannot be read, got 4, the first: recording broken"):
        monitor([*[damaged] * 4, *recordings(pool[:30])], baseline, FAST)


def test_enough_audio_is_enough(baseline: Baseline, pool: list[Floats]) -> None:
    def fail() -> Floats:
        pytest.fail("read more than was asked for")

    heap = listen_to([*recordings(pool[:5]), Recording("more", fail)], baseline, None, 4.0)
    assert 4.0 <= heap.duration_s <= 4.0 + len(max(pool[:5], key=len)) / 16_000


def test_long_recordings_are_cut(baseline: Baseline) -> None:
    rng = np.random.default_rng(0)
    long = np.concatenate([synthesize(["TABLE", "SONG"], speaker=0, rng=rng) for _ in range(40)])
    heap = listen_to(recordings([long]), baseline, None, 3600.0)
    assert heap.recordings == 1
    assert len(heap.pieces) == -(-len(long) // (30 * 16_000)) > 1
    assert sum(len(codes) for codes, _, _ in heap.pieces) == pytest.approx(len(long) / 320, abs=len(heap.pieces))


# Words.


@pytest.fixture(scope="module")
def spelling_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that hears tones as letters, and heard one word in ten wrong where it was scored."""
    directory = make_tone_bundle(tmp_path_factory.mktemp("bundle") / "bundle").path
    refs = ["A B C D A B C D A B"] * 200
    build_report(
        test_set_sha256="a" * 64,
        text_normalizer="upper-ascii-1",
        split="test",
        ids=[str(number) for number in range(200)],
        refs=refs,
        hyps={("greedy", "onnxruntime"): [ref.replace("D", "E", 1) for ref in refs]},
        bootstrap_samples=10,
    ).save(directory)
    return directory


@pytest.mark.parametrize(("wrong", "drifts"), [(0, False), (1, False), (12, True)])
def test_words_of_new_audio_against_those_of_record(
    baseline: Baseline, spelling_bundle: Path, wrong: int, drifts: bool
) -> None:
    """Of 20 transcripts so many are not what is said."""
    texts = ["AB CD" if number < wrong else "CAB DAD" for number in range(20)]
    new = [Recording(str(n), lambda: say("CAB DAD"), text) for n, text in enumerate(texts)]
    unlimited = Limits(resamples=50, min_recordings=20, max_error_change=99.0, max_usage_divergence=99.0)
    found = monitor(new, baseline, unlimited, bundle=spelling_bundle)
    check = {check.name: check for check in found.checks}["WER"]
    assert check.figure == pytest.approx(wrong / 20)
    assert check.reference == pytest.approx(0.1)
    assert (check.verdict == "drift") is drifts, check
    assert found.drift is drifts


def test_texts_without_words_and_recordings_without_text_are_no_words(
    baseline: Baseline, spelling_bundle: Path
) -> None:
    new = [Recording("a", lambda: say("CAB"), "..."), Recording("b", lambda: say("CAB"))]
    assert listen_to(new, baseline, spelling_bundle, 3600.0).words == []


def test_an_increase_must_be_sure(spelling_bundle: Path) -> None:
    """Twice the errors in few words may be chance; in many they are not."""
    few = [ErrorCounts(0, 0, 2, 10), ErrorCounts(0, 0, 0, 10), ErrorCounts(0, 0, 4, 10)]
    found = compare_words(few, spelling_bundle, 0.005, 0)
    assert found.increase == pytest.approx(0.1)
    assert found.low < 0
    assert found.detectable == pytest.approx(found.increase - found.low)
    many = compare_words(few * 100, spelling_bundle, 0.005, 0)
    assert many.increase == pytest.approx(0.1)
    assert 0 < many.low < 0.1


def test_a_bundle_without_a_wer_of_record(tmp_path: Path) -> None:
    bundle = make_tone_bundle(tmp_path / "bundle").path
    build_report(
        test_set_sha256="a" * 64, text_normalizer="upper-ascii-1", split="test", ids=["1"], refs=["A"],
        hyps={("greedy", "torch"): ["A"]}, bootstrap_samples=10,
    ).save(bundle)  # fmt: skip
    with pytest.raises(ArtifactMismatchError, match=r"a WER of record.*got rows torch/greedy"):
        compare_words([ErrorCounts(0, 0, 0, 1)], bundle, 0.01, 0)


# Where recordings come from.


def test_files_manifests_and_cuts(made: Made, tmp_path: Path, pool: list[Floats]) -> None:
    file = tmp_path / "one.wav"
    soundfile.write(file, np.stack([pool[0], pool[0]], axis=1), 16_000)
    assert len(from_file(file, mix_down=True).read()) == len(pool[0])
    with pytest.raises(AudioError, match="expected one channel, got 2"):
        from_file(file).read()
    rows = from_manifest(made.corpus)
    assert len(rows) == made.data.figures["recordings"]
    assert rows[0].text
    reference = read_audio(made.corpus.parent / "audio" / "utterance-0000.wav")
    assert np.array_equal({row.id: row for row in rows}["utterance-0000"].read(), reference)
    cuts = load_cuts(made.data, "test")
    cuts.to_file(tmp_path / "cuts.jsonl")
    found = from_cuts(tmp_path / "cuts.jsonl")
    assert [recording.id for recording in found] == [cut.id for cut in cuts]
    assert len(found[0].read()) == next(iter(cuts)).num_samples
    assert found[0].text
    for cut in cuts:
        cut.recording.sources[0].source = str(tmp_path / "gone.wav")
    cuts.to_file(tmp_path / "gone.jsonl")
    with pytest.raises(AudioError, match="a cut whose audio lhotse can load"):
        from_cuts(tmp_path / "gone.jsonl")[0].read()
