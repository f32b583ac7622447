"""encode-ci on real audio files and a tiny teacher: killed and resumed, cut into ranks, damaged, mixed up.

Every way of getting there must give the same bytes.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mvqkd.artifacts import Artifact, PartialArtifact, load_artifact
from mvqkd.codebook.encode import encode_ci, encode_with_teacher, part_path
from mvqkd.codebook.merge import merge
from mvqkd.codebook.store import CodebookIndexStore
from mvqkd.config import EncodeCiConfig, ExtractTeacherConfig, FitQuantizerConfig, PrepareDataConfig
from mvqkd.data.audio import load_audio
from mvqkd.data.cuts import load_cuts, speed_copies
from mvqkd.data.prepare import prepare_data
from mvqkd.errors import ArtifactCorruptError, ArtifactMismatchError, ConfigError, EmptyCutSetError, FrameAlignmentError
from mvqkd.quantizer import Quantizer
from mvqkd.quantizer.fit_stage import fit_quantizer
from mvqkd.teacher.extract import extract_teacher, extract_with_teacher
from mvqkd.testing.teacher import TinyTeacher

CONFIG = EncodeCiConfig(splits=["train"], speeds=[1.0, 1.1], shard_cuts=3, batch_duration_s=2.0, device="cpu")


class Corpus:
    """A cut-manifest, embeddings of a tiny teacher's layer and a quantizer fitted on them, below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.teacher = TinyTeacher(layer=2)
        self.data = load_artifact(root / "data")
        self.embeddings = load_artifact(root / "embeddings")
        self.quantizer = load_artifact(root / "quantizer")

    @classmethod
    def build(cls, root: Path) -> Corpus:
        rng = np.random.default_rng(0)
        rows = []
        for number in range(10):
            seconds = 0.5 + 0.13 * number
            t = np.arange(int(16_000 * seconds)) / 16_000
            tone = np.sin(2 * np.pi * (200 + 60 * number) * t) * (1 + np.sin(2 * np.pi * 3 * t))
            soundfile.write(root / f"{number}.wav", 0.1 * tone + 0.02 * rng.standard_normal(len(t)), 16_000)
            split = "train" if number < 8 else "test"
            rows.append({"audio": f"{number}.wav", "text": f"TONE {'ABCDEFGHIJ'[number]}", "split": split})
        (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = prepare_data(PrepareDataConfig(source="manifest", manifest=str(root / "rows.jsonl")), out=root / "data")
        embed(root, data, TinyTeacher(layer=2), "embeddings")
        fit_small(root, "embeddings", "quantizer")
        return cls(root)

    def encode(
        self, out: str, teacher: TinyTeacher | None = None, config: EncodeCiConfig = CONFIG, **ranks: int
    ) -> Artifact:
        return encode_with_teacher(
            teacher or self.teacher,
            config,
            data=self.data,
            teacher_embeddings=self.embeddings,
            quantizer=self.quantizer,
            out=part_path(self.root / out, ranks.get("rank", 0), ranks.get("world_size", 1)),
            **ranks,
        )


def embed(root: Path, data: Artifact, teacher: TinyTeacher, name: str) -> Artifact:
    config = ExtractTeacherConfig(teacher="whisper-tiny.en", layer=teacher.layer, num_frames=400)
    return extract_with_teacher(teacher, config, data=data, out=root / name)


def fit_small(root: Path, embeddings: str, name: str, seed: int = 0) -> Artifact:
    config = FitQuantizerConfig(
        num_codebooks=2, phase_1_steps=20, phase_2_steps=10, batch_size=64, seed=seed, device="cpu"
    )
    return fit_quantizer(config, teacher_embeddings=root / embeddings, out=root / name)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus.build(tmp_path_factory.mktemp("encode_ci"))


@pytest.fixture(scope="module")
def undisturbed(corpus: Corpus) -> Artifact:
    return corpus.encode("undisturbed")


def payload(artifact: Artifact) -> dict[str, bytes]:
    return {name: (artifact.path / name).read_bytes() for name in artifact.files}


def test_every_copy_is_encoded_as_teacher_and_quantizer_say(corpus: Corpus, undisturbed: Artifact) -> None:
    store = CodebookIndexStore(undisturbed)
    store.verify()
    copies = speed_copies(load_cuts(corpus.data, "train"), CONFIG.speeds)
    assert store.cut_ids == [cut.id for cut in copies]
    quantizer = Quantizer.load(corpus.quantizer.path)
    for cut in copies:
        embeddings, lengths = corpus.teacher.embed([load_audio(cut)])
        expected = quantizer.encode(embeddings[0, : lengths[0]]).numpy()
        np.testing.assert_array_equal(store.read(cut.id), expected)


def test_facts_figures_and_lineage(corpus: Corpus, undisturbed: Artifact) -> None:
    for parent in (corpus.data, corpus.embeddings, corpus.quantizer):
        undisturbed.require_parent(parent)
    facts, figures = undisturbed.facts, undisturbed.figures
    store = CodebookIndexStore(undisturbed)
    assert facts["num_cuts"] == 16
    assert facts["num_shards"] == 6
    assert facts["num_frames"] == sum(store.num_frames(cut_id) for cut_id in store.cut_ids)
    assert (facts["num_codebooks"], facts["codebook_size"], facts["bytes_per_frame"]) == (2, 256, 2)
    assert (facts["teacher_id"], facts["layer"], facts["rate_hz"]) == ("tiny-0", 2, "50/1")
    assert (facts["quantizer_id"], facts["data_id"]) == (corpus.quantizer.id, corpus.data.id)
    assert figures["bytes"] == 2 * facts["num_frames"]
    assert figures["compression_ratio"] == 32
    assert 0 < figures["relative_error"] < 0.6
    assert all(0 < bits <= 8 for bits in figures["entropy_bits"])


_KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from mvqkd.testing.teacher import TinyTeacher
from mvqkd.artifacts import load_artifact
from mvqkd.codebook.encode import encode_with_teacher
from mvqkd.config import EncodeCiConfig

class SlowTeacher(TinyTeacher):
    def embed(self, audio):
        time.sleep(0.15)
        return super().embed(audio)

root = Path(sys.argv[1])
encode_with_teacher(
    SlowTeacher(layer=2), EncodeCiConfig.model_validate_json(sys.argv[2]), data=load_artifact(root / "data"),
    teacher_embeddings=load_artifact(root / "embeddings"), quantizer=load_artifact(root / "quantizer"),
    out=root / "killed",
)
"""


def test_killed_and_run_again(corpus: Corpus, undisturbed: Artifact) -> None:
    process = subprocess.Popen([sys.executable, "-c", _KILLED, str(corpus.root), CONFIG.model_dump_json()])
    try:
        deadline = time.monotonic() + 120
        # Wait until two shards are done and the third is being computed.
        while not (finished := list(corpus.root.glob(".killed.partial-*/.shard-00001.json"))):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (corpus.root / "killed").exists()
    partial = finished[0].parent
    shard = partial / "shard-00000.npy"
    trusted = shard.stat().st_mtime_ns
    assert len(list(partial.glob("shard-*.npy"))) < 6

    used_again = []

    class Recorder(TinyTeacher):
        def embed(self, audio):
            used_again.extend(len(samples) for samples in audio)
            return super().embed(audio)

    resumed = corpus.encode("killed", Recorder(layer=2))
    assert (resumed.path / "shard-00000.npy").stat().st_mtime_ns == trusted
    assert 0 < len(used_again) <= 16 - 6
    assert resumed.id == undisturbed.id
    assert payload(resumed) == payload(undisturbed)
    assert resumed.figures["squared_error"] == undisturbed.figures["squared_error"]
    assert not list(corpus.root.glob(".killed*"))


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "record"])
def test_a_damaged_shard_of_a_killed_run_is_not_trusted(
    corpus: Corpus, undisturbed: Artifact, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Interrupted(TinyTeacher):
        calls = 0

        def embed(self, audio):
            self.calls += 1
            if self.calls > 5:
                raise KeyboardInterrupt
            return super().embed(audio)

    out = f"interrupted-{damage}"
    with pytest.raises(KeyboardInterrupt):
        corpus.encode(out, Interrupted(layer=2))
    (partial,) = corpus.root.glob(f".{out}.partial-*")
    shard, record = partial / "shard-00000.npy", partial / ".shard-00000.json"
    raw = bytearray(shard.read_bytes())
    if damage == "flipped":
        raw[-1] ^= 1
        shard.write_bytes(raw)
    elif damage == "truncated":
        shard.write_bytes(raw[:-1])
    elif damage == "missing":
        shard.unlink()
    else:
        record.write_text("{")
    with caplog.at_level(logging.WARNING):
        resumed = corpus.encode(out)
    assert "shard-00000.npy of the interrupted run is damaged" in caplog.text
    assert payload(resumed) == payload(undisturbed)


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_ranks_merge_into_the_same_artifact(corpus: Corpus, undisturbed: Artifact, world_size: int) -> None:
    out = f"ranks-{world_size}"
    parts = [corpus.encode(out, rank=rank, world_size=world_size).path for rank in range(world_size)]
    assert len(set(parts)) == world_size
    merged = merge(parts[::-1], corpus.root / "merged-ranks")
    assert merged.id == undisturbed.id
    assert merged.facts == undisturbed.facts
    assert payload(merged) == payload(undisturbed)
    assert merged.figures["relative_error"] == pytest.approx(undisturbed.figures["relative_error"])
    if world_size > 1:
        with pytest.raises(ArtifactMismatchError, match=f"rank 0 of {world_size}"):
            CodebookIndexStore(load_artifact(parts[0]))


def test_a_rank_loads_only_its_own_cuts(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[int] = []

    def counted(*arguments: object) -> object:
        cuts = load_cuts(*arguments)
        loaded.append(len(cuts))
        return cuts

    monkeypatch.setattr("mvqkd.codebook.encode.load_cuts", counted)
    shard_cuts = CONFIG.shard_cuts
    for rank in range(8):
        corpus.encode("own", rank=rank, world_size=8)
    assert max(loaded) <= shard_cuts < corpus.data.facts["splits"]["train"]


def test_the_batch_size_does_not_show(corpus: Corpus, undisturbed: Artifact) -> None:
    other = corpus.encode("batches", config=CONFIG.model_copy(update={"batch_duration_s": 0.1, "shard_cuts": 5}))
    ours, theirs = CodebookIndexStore(undisturbed), CodebookIndexStore(other)
    assert ours.cut_ids == theirs.cut_ids
    for cut_id in ours.cut_ids:
        np.testing.assert_array_equal(ours.read(cut_id), theirs.read(cut_id))


def test_merging_refuses_what_does_not_belong_together(corpus: Corpus) -> None:
    whole = [corpus.encode("mix", rank=rank, world_size=2).path for rank in range(2)]
    with pytest.raises(ArtifactMismatchError, match="ranks 0 to 1, once each, got ranks 0 of"):
        merge(whole[:1], corpus.root / "merged")
    with pytest.raises(ArtifactMismatchError, match="once each"):
        merge([whole[0], whole[0]], corpus.root / "merged")
    with pytest.raises(ArtifactMismatchError, match="parts to merge"):
        merge([], corpus.root / "merged")
    with pytest.raises(ArtifactMismatchError, match="got indexes of all ranks"):
        merge([corpus.encode("all").path, whole[1]], corpus.root / "merged")
    other_config = CONFIG.model_copy(update={"batch_duration_s": 3.0})
    other = corpus.encode("other", config=other_config, rank=1, world_size=2).path
    with pytest.raises(ArtifactMismatchError, match="the encode-ci config of"):
        merge([whole[0], other], corpus.root / "merged")
    fit_small(corpus.root, "embeddings", "quantizer-2", seed=2)
    second = Corpus(corpus.root)
    second.quantizer = load_artifact(corpus.root / "quantizer-2")
    other = second.encode("other-quantizer", rank=1, world_size=2).path
    with pytest.raises(ArtifactMismatchError, match=f"expected quantizer {corpus.quantizer.short_id} as in"):
        merge([whole[0], other], corpus.root / "merged")
    shard = next(whole[1].glob("shard-*.npy"))
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.write_bytes(raw)
    with pytest.raises(ArtifactCorruptError, match=shard.name):
        merge(whole, corpus.root / "merged")
    assert not (corpus.root / "merged").exists()


def test_a_quantizer_of_another_layer_is_refused(corpus: Corpus) -> None:
    embed(corpus.root, corpus.data, TinyTeacher(layer=3), "embeddings-3")
    other = Corpus(corpus.root)
    other.embeddings = load_artifact(corpus.root / "embeddings-3")
    with pytest.raises(
        ArtifactMismatchError, match="expected one of teacher tiny-0, layer 3, got teacher tiny-0, layer 2"
    ):
        other.encode("out")


def test_a_quantizer_of_other_embeddings_is_refused(corpus: Corpus) -> None:
    config = ExtractTeacherConfig(teacher="whisper-tiny.en", layer=2, num_frames=300)
    other = Corpus(corpus.root)
    other.embeddings = extract_with_teacher(corpus.teacher, config, data=corpus.data, out=corpus.root / "embeddings-s")
    with pytest.raises(ArtifactMismatchError, match=f"got teacher-embeddings {other.embeddings.short_id}"):
        other.encode("out")


def test_indexes_of_another_quantizer_are_refused(corpus: Corpus, undisturbed: Artifact) -> None:
    other = fit_small(corpus.root, "embeddings", "quantizer-3", seed=3)
    with pytest.raises(ArtifactMismatchError, match=other.short_id):
        undisturbed.require_parent(other)


def test_a_teacher_with_too_few_frames_is_refused(corpus: Corpus) -> None:
    class Short(TinyTeacher):
        def embed(self, audio):
            embeddings, lengths = super().embed(audio)
            return embeddings, lengths - 3

    with pytest.raises(FrameAlignmentError, match="teacher frames"):
        corpus.encode("short", Short(layer=2))
    assert not (corpus.root / "short").exists()


def test_splits_and_ranks_that_are_not_there(corpus: Corpus) -> None:
    with pytest.raises(EmptyCutSetError, match="split dev"):
        corpus.encode("out", config=CONFIG.model_copy(update={"splits": ["dev"]}))
    with pytest.raises(ConfigError, match="rank 2 of 2"):
        corpus.encode("out", rank=2, world_size=2)


def test_the_stage_rebuilds_the_teacher_that_the_embeddings_name(corpus: Corpus) -> None:
    extract = ExtractTeacherConfig(teacher="whisper-tiny.en", layer=1, num_frames=300, device="cpu")
    embeddings = extract_teacher(extract, data=corpus.data.path, out=corpus.root / "whisper")
    quantizer = fit_small(corpus.root, "whisper", "whisper-quantizer")
    paths = {"data": corpus.data.path, "teacher_embeddings": embeddings.path}
    config = CONFIG.model_copy(update={"speeds": [1.0]})
    artifact = encode_ci(config, **paths, quantizer=quantizer.path, out=corpus.root / "whisper-ci")
    store = CodebookIndexStore(artifact)
    store.verify()
    assert len(store) == 8
    assert artifact.facts["teacher_id"].startswith("whisper-tiny.en-")
    assert artifact.figures["relative_error"] < 0.9
    with pytest.raises(ArtifactMismatchError, match="layer 1, got teacher tiny-0, layer 2"):
        encode_ci(config, **paths, quantizer=corpus.quantizer.path, out=corpus.root / "out")


def test_other_inputs_discard_a_half_written_artifact(corpus: Corpus) -> None:
    stale = PartialArtifact(corpus.root / "redone", "codebook-indexes", stage="encode-ci", config={"other": 1})
    (stale.path / "shard-00000.npy").write_bytes(b"stale")
    artifact = corpus.encode("redone")
    assert not stale.path.exists()
    CodebookIndexStore(artifact).verify()
    shutil.rmtree(artifact.path)
