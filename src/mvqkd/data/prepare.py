"""The stage prepare-data: a corpus in, cuts, tokens and a report out.

Payload of a ``cut-manifest``: ``cuts/<split>.jsonl.gz``; ``audio/*.flac`` for recordings that had to be converted;
``tokens.txt`` (and ``bpe.model``); ``report.json``; ``rejected.jsonl``.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mvqkd.artifacts import Artifact, PartialArtifact, atomic_open, content_hash, file_sha256, write_json
from mvqkd.config import PrepareDataConfig
from mvqkd.data.audio import Samples
from mvqkd.data.cuts import cuts_file, write_cuts
from mvqkd.data.report import data_report, hours
from mvqkd.data.sources import TRAIN, Corpus, read_source
from mvqkd.data.splits import assign_splits, is_test
from mvqkd.data.tokens import Tokens
from mvqkd.data.validate import (
    Accepted,
    Rejected,
    as_json,
    count_reasons,
    duplicate,
    examine,
    refuse_too_many,
)
from mvqkd.errors import EmptyCutSetError
from mvqkd.frames import SAMPLE_RATE_HZ
from mvqkd.progress import track
from mvqkd.torchaudio_compat import import_torchaudio

_LOG = logging.getLogger(__name__)

AUDIO_FOLDER = "audio"
REPORT_FILE = "report.json"
REJECTED_FILE = "rejected.jsonl"


def prepare_data(config: PrepareDataConfig, *, out: Path) -> Artifact:
    """Turn a corpus into a ``cut-manifest`` artifact at ``out``.

    Every recording is decoded once and checked; unusable ones are listed in rejected.jsonl. Equal corpora and equal
    parameters give equal bytes; the default corpus gives the same artifact id on every machine.

    Raises:
        AudioError, DataError: the source is malformed, or too many of its recordings are unusable.
        EmptyCutSetError: nothing is left for train or for test.
        ConfigError: the training text cannot give that many BPE pieces.
        MissingDependencyError: the default corpus needs apt-get and dpkg-deb.
    """
    corpus = read_source(config)
    partial = PartialArtifact(out, "cut-manifest", stage="prepare-data", config=config.model_dump(mode="json"))
    _discard_leftovers(partial)
    cuts: dict[str, Any] = {}
    accepted, rejected = _examine_all(corpus, config, partial.path, cuts)
    with atomic_open(partial.path / REJECTED_FILE) as stream:
        stream.writelines(json.dumps(as_json(rejection), sort_keys=True) + "\n" for rejection in rejected)
    refuse_too_many(rejected, len(corpus.rows), config, partial.path / REJECTED_FILE)
    if not accepted:
        raise EmptyCutSetError(
            f"source {config.source} {config.manifest or config.corpus_dir or config.cuts or ''}".strip(),
            expected="recordings",
            got="none",
            next_step="name a corpus that holds some",
        )
    split_of = assign_splits(
        accepted,
        split_by=config.split_by,
        test_share=config.test_share,
        dev_share=config.dev_share,
        seed=config.split_seed,
    )
    splits: dict[str, list[Accepted]] = defaultdict(list)
    for recording in sorted(accepted, key=lambda recording: recording.row.id):
        splits[split_of[recording.row.id]].append(recording)
    tokens = Tokens.train(
        [recording.text for recording in splits[TRAIN] if recording.text], config.token_type, config.vocab_size
    )
    tokens.save(partial.path)
    for name, recordings in splits.items():
        write_cuts(partial.path / cuts_file(name), (cuts[recording.row.id] for recording in recordings))
    report = data_report(splits, tokens, count_reasons(rejected))
    write_json(partial.path / REPORT_FILE, report)
    artifact = partial.commit(
        facts={
            "source": corpus.source,
            "licence": corpus.licence,
            "splits": {name: len(recordings) for name, recordings in splits.items()},
            "hours": {name: hours(recordings) for name, recordings in splits.items()},
            "token_type": tokens.token_type,
            "vocab_size": tokens.vocab_size,
            "text_normalizer": config.text_normalizer,
            "test_set_sha256": {name: split_sha256(recordings) for name, recordings in splits.items()},
        },
        figures=_figures(report, len(corpus.rows), len(rejected)),
    )
    _LOG.info(
        "prepare-data: %s; %d of %d recordings rejected",
        ", ".join(f"{name} {len(r)} cuts {hours(r):.2f} h" for name, r in sorted(splits.items())),
        len(rejected),
        len(corpus.rows),
    )
    return artifact


def split_sha256(recordings: Sequence[Accepted]) -> str:
    """Identity of a split: ids, normalised texts and the sources' bytes; not paths, not how audio was converted."""
    rows = [[r.row.id, r.text, r.source_sha256, round(r.start_s, 6), r.num_samples] for r in recordings]
    return content_hash(sorted(rows, key=lambda row: str(row[0])))


def _discard_leftovers(partial: PartialArtifact) -> None:
    # The corpus may have changed since a killed run, and reading it again takes less than checking it.
    for left in partial.path.iterdir():
        if left.is_dir():
            shutil.rmtree(left)
        elif not left.name.startswith("."):
            left.unlink()


def _examine_all(
    corpus: Corpus, config: PrepareDataConfig, root: Path, cuts: dict[str, Any]
) -> tuple[list[Accepted], list[Rejected]]:
    """Judge every row; write converted audio below ``root`` and put the cut of each accepted row into ``cuts``."""
    accepted: list[Accepted] = []
    rejected: list[Rejected] = []
    for row in track(corpus.rows, "prepare-data", total=len(corpus.rows), unit="recording"):
        result: Accepted | Rejected = duplicate(row) if row.id in cuts else examine(row, config)
        if isinstance(result, Rejected):
            rejected.append(result)
            continue
        audio = str(result.path)
        if result.converted is not None:
            audio = f"{AUDIO_FOLDER}/{_file_name(row.id)}.flac"
            _write_flac(root / audio, result.converted)
        digest = result.source_sha256 if result.converted is None else file_sha256(root / audio)
        cuts[row.id] = _as_cut(result, audio, digest)
        # Only the cut is needed from here on; a corpus of converted audio would not fit in memory.
        accepted.append(_without_audio(result))
    return accepted, rejected


def _without_audio(recording: Accepted) -> Accepted:
    return replace(recording, converted=None, recording=None, row=replace(recording.row, cut=None))


def _file_name(cut_id: str) -> str:
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", cut_id).lstrip(".")[:100]
    return safe if safe == cut_id else f"{safe}-{hashlib.sha256(cut_id.encode()).hexdigest()[:8]}"


def _write_flac(path: Path, samples: Samples) -> None:
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    # Rounded here, because libsndfile scales floats by 32767. Level 0 uses fixed integer predictors only, so that the
    # bytes do not depend on the processor's floating point.
    pcm = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    # Through memory, because libsndfile syncs each file it closes; commit does so once for all.
    encoded = io.BytesIO()
    soundfile.write(encoded, pcm, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16", compression_level=0.0)
    path.write_bytes(encoded.getbuffer())


def _as_cut(recording: Accepted, audio: str, audio_sha256: str) -> Any:
    import_torchaudio()
    from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment

    name = recording.row.id
    length = recording.num_samples
    if recording.recording is not None:
        length = recording.recording.num_samples
    return MonoCut(
        id=name,
        start=recording.start_s,
        duration=recording.duration_s,
        channel=0,
        recording=Recording(
            id=name,
            sources=[AudioSource(type="file", channels=[0], source=audio)],
            sampling_rate=SAMPLE_RATE_HZ,
            num_samples=length,
            duration=length / SAMPLE_RATE_HZ,
        ),
        supervisions=[
            SupervisionSegment(
                id=name,
                recording_id=name,
                start=0.0,
                duration=recording.duration_s,
                channel=0,
                text=recording.text,
                speaker=recording.row.speaker,
            )
        ],
        custom={"audio_sha256": audio_sha256},
    )


def _figures(report: dict[str, Any], total: int, rejected: int) -> dict[str, Any]:
    return {
        "recordings": total,
        "rejected": rejected,
        "rejected_by_reason": report["rejected"],
        "train_vocabulary": report["vocabulary"],
        "test_oov_word_rate": {name: figures["word_rate"] for name, figures in report["oov"].items()},
        "test_words": {name: figures["words"] for name, figures in report["splits"].items() if is_test(name)},
    }
