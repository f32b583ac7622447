"""Where recordings come from: each source gives the same rows, in a stable order, without touching audio."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvqkd.config import PrepareDataConfig
from mvqkd.data import asterisk
from mvqkd.errors import DataError
from mvqkd.torchaudio_compat import import_torchaudio

TRAIN, DEV, TEST, UNTRANSCRIBED = "train", "dev", "test", "untranscribed"
_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LIBRISPEECH_FOLDER = re.compile(r"(train|dev|test)-[a-z0-9-]+")


@dataclass(frozen=True)
class Row:
    """One recording as its source states it.

    ``shown_as`` names the audio in messages and reports: relative to the source, so that reports do not depend on the
    machine. ``cut`` is set by the source ``cuts`` only and then takes the place of ``path``.
    """

    id: str
    shown_as: str
    path: Path | None
    text: str | None
    speaker: str | None = None
    split: str | None = None
    cut: Any = None


@dataclass(frozen=True)
class Corpus:
    """Rows of one source, with its name and licence for the report."""

    source: str
    licence: str
    rows: list[Row]


def read_source(config: PrepareDataConfig) -> Corpus:
    """List the recordings of the configured source.

    Raises:
        DataError: the source is missing or malformed, naming the line.
    """
    if config.source == "asterisk":
        rows = [
            Row(id=p.name.replace("/", "-"), shown_as=p.name, path=p.path, text=p.text, speaker=asterisk.SPEAKER)
            for p in asterisk.load_prompts()
        ]
        return Corpus(f"asterisk-core-sounds-en {asterisk.VERSION}", asterisk.LICENCE, rows)
    if config.source == "librispeech":
        return Corpus("librispeech", "CC BY 4.0", list(_librispeech_rows(_existing(config, "corpus_dir"))))
    if config.source == "manifest":
        return Corpus("manifest", "the user's own", list(_manifest_rows(_existing(config, "manifest"))))
    return Corpus("cuts", "the user's own", list(_cut_rows(_existing(config, "cuts"))))


def _existing(config: PrepareDataConfig, field: str) -> Path:
    path = Path(getattr(config, field)).expanduser()
    found = path.is_dir() if field == "corpus_dir" else path.is_file()
    if not found:
        raise DataError(
            f"prepare-data.{field}",
            expected=f"an existing {'directory' if field == 'corpus_dir' else 'file'}",
            got=str(path),
            next_step=f"pass --{field.replace('_', '-')} PATH",
        )
    return path


def _manifest_rows(path: Path) -> Iterator[Row]:
    """JSON lines of audio (relative to the manifest), text[, speaker, split, id]; other fields are ignored."""
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        subject = f"manifest {path}, line {number}"
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise DataError(
                subject, expected="a JSON object", got=str(error), next_step="write one JSON object a line"
            ) from error
        if not isinstance(fields, dict) or not isinstance(fields.get("audio"), str) or not fields["audio"]:
            raise DataError(
                subject,
                expected='an object with "audio", the path of a recording',
                got=f"keys {', '.join(fields) or 'none'}" if isinstance(fields, dict) else type(fields).__name__,
                next_step="add it, relative to the manifest's folder",
            )
        for name in ("text", "speaker", "split", "id"):
            value = fields.get(name)
            if value is not None and not isinstance(value, str | int):
                raise DataError(
                    f"{subject}, field {name}",
                    expected="a string",
                    got=json.dumps(value)[:80],
                    next_step=f"write {name} as a string or leave it out",
                )
        audio = fields["audio"]
        yield Row(
            id=str(fields.get("id") or Path(audio).with_suffix("").as_posix().lstrip("./").replace("/", "-")),
            shown_as=audio,
            path=path.parent / audio,
            text=_string(fields.get("text")),
            speaker=_string(fields.get("speaker")),
            split=_checked_split(subject, _string(fields.get("split"))),
        )


def _string(value: Any) -> str | None:
    return None if value is None else str(value)


def _checked_split(subject: str, split: str | None) -> str | None:
    if split is None or _SPLIT_NAME.fullmatch(split):
        return split
    raise DataError(
        f"{subject}, field split",
        expected="a name of letters, digits, '.', '_' and '-'",
        got=json.dumps(split),
        next_step="rename it to train, dev, test or untranscribed",
    )


def _librispeech_rows(root: Path) -> Iterator[Row]:
    """Rows of every ``<speaker>/<chapter>/*.trans.txt`` below root.

    The folder above the speaker gives the split when it is called train-*, dev-* or test-*: all train folders are
    ``train``; a single dev (test) folder is ``dev`` (``test``), several keep their names, because their WERs are
    never averaged.
    """
    transcripts = sorted(root.rglob("*.trans.txt"), key=lambda path: path.relative_to(root).as_posix())
    if not transcripts:
        raise DataError(
            f"corpus {root}",
            expected="LibriSpeech's layout, SPEAKER/CHAPTER/*.trans.txt beside the recordings",
            got="no *.trans.txt file",
            next_step="pass the directory that holds train-clean-100 and the like as --corpus-dir",
        )
    folders = sorted({path.parents[2].name for path in transcripts if len(path.parents) > 2})
    split_of = {name: _librispeech_split(name, folders) for name in folders}
    for transcript in transcripts:
        folder, speaker = transcript.parents[2].name, transcript.parents[1].name
        for number, line in enumerate(transcript.read_text(encoding="utf-8").splitlines(), start=1):
            utterance, _, text = line.strip().partition(" ")
            if not utterance:
                continue
            audio = transcript.parent / f"{utterance}.flac"
            if not text:
                raise DataError(
                    f"transcript {transcript}, line {number}",
                    expected="`utterance-id WORDS`",
                    got=repr(line[:80]),
                    next_step="restore the file from the corpus",
                )
            shown_as = audio.relative_to(root).as_posix()
            yield Row(utterance, shown_as, audio, text, speaker=speaker, split=split_of[folder])


def _librispeech_split(name: str, folders: list[str]) -> str | None:
    match = _LIBRISPEECH_FOLDER.fullmatch(name)
    if match is None:
        return None
    kind = match[1]
    alike = [folder for folder in folders if folder.startswith(f"{kind}-")]
    return kind if kind == TRAIN or len(alike) == 1 else name


def _cut_rows(path: Path) -> Iterator[Row]:
    """Rows of a lhotse CutSet; a cut's text is its supervisions' texts in the order of time."""
    import_torchaudio()
    from lhotse import CutSet

    try:
        cuts = list(CutSet.from_file(path))
    except Exception as error:  # lhotse raises whatever its deserialisers do
        raise DataError(
            f"cuts {path}",
            expected="a lhotse CutSet as .jsonl or .jsonl.gz",
            got=f"{type(error).__name__}: {error}",
            next_step="write it with CutSet.to_file",
        ) from error
    for cut in cuts:
        supervisions = sorted(cut.supervisions, key=lambda supervision: supervision.start)
        texts = [s.text for s in supervisions if s.text is not None]
        custom = getattr(cut, "custom", None) or {}
        yield Row(
            id=cut.id,
            shown_as=f"cut {cut.id}",
            path=None,
            text=" ".join(texts) if texts else None,
            speaker=next((s.speaker for s in supervisions if s.speaker is not None), None),
            split=_checked_split(f"cut {cut.id}", _string(custom.get("split"))),
            cut=cut,
        )
