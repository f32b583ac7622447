"""What ``mvqkd transcribe`` prints: text, JSON or subtitles, to stdout or a file for each recording."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

from mvqkd.decode.subtitles import make_cues, render
from mvqkd.decode.transcript import Segment, Transcript, word_as_json
from mvqkd.errors import ConfigError

Form = Literal["text", "json", "jsonl", "srt", "vtt"]
_SUFFIX = {"text": ".txt", "json": ".json", "jsonl": ".jsonl", "srt": ".srt", "vtt": ".vtt"}
_ERASE_LINE = "\r\x1b[2K"


class Output:
    """Where recordings' transcripts go, one after another: call ``begin``, while streaming ``partial`` and ``final``,
    ``end``; after the last one ``close``.

    Args:
        stdout: where it is written without ``directory``.
        directory: gets a file for each recording, named after it.
        streaming: write segments as they come, not at the end.
        columns: width of the terminal, on which text in progress rewrites its line; None: no terminal, and text in
            progress is not shown.
    """

    def __init__(
        self,
        form: Form,
        stdout: TextIO,
        *,
        directory: Path | None = None,
        streaming: bool = False,
        columns: Callable[[], int] | None = None,
    ) -> None:
        self._form: Form = form
        self._stream = self._stdout = stdout
        self._directory = directory
        self._streaming = streaming
        self._columns = columns if directory is None else None
        self._audio = ""
        self._segment_index = 0
        self._collected: list[dict[str, Any]] = []

    def begin(self, audio: str) -> None:
        """A recording starts."""
        self._audio, self._segment_index = audio, 0

    def partial(self, text: str, heard_s: float) -> None:
        """Text in progress, after ``heard_s`` of audio; a later one, or ``final``, takes its place."""
        if self._form == "jsonl":
            self._write_row(
                {"type": "partial", "audio": self._audio, "segment": self._segment_index}
                | {"heard_s": round(heard_s, 3), "text": text}
            )
        elif self._form == "text" and self._columns is not None:
            # The end of a long text: the words that are new.
            self._write(_ERASE_LINE + text[-max(1, self._columns() - 1) :])

    def final(self, segment: Segment) -> None:
        """A segment of a stream that will not change any more."""
        if self._form == "jsonl":
            row = {"type": "final", "audio": self._audio, "segment": self._segment_index, "text": segment.text}
            row |= {"start_s": round(segment.start_s, 3), "end_s": round(segment.end_s, 3)}
            row |= {"tokens": segment.tokens, "times_s": [round(time_s, 3) for time_s in segment.times_s]}
            self._write_row({**row, "words": [word_as_json(word) for word in segment.words()]})
        elif self._form == "text":
            self._write((_ERASE_LINE if self._columns is not None else "") + segment.text + "\n")
        self._segment_index += 1

    def end(self, transcript: Transcript) -> None:
        """A recording is done."""
        form = self._form
        if form == "jsonl":
            kind = {"type": "end"} if self._streaming else {}
            self._write_row(kind | transcript.as_json())
        elif form == "json" and self._directory is None:
            self._collected.append(transcript.as_json())
        elif form == "json":
            self._write(json.dumps(transcript.as_json(), ensure_ascii=False, indent=1) + "\n")
        elif form == "text":
            if not self._streaming:
                self._write(transcript.text + "\n")
        else:
            self._write(render(make_cues(transcript.words()), form))
        self.abandon()

    def abandon(self) -> None:
        """A recording ended, or failed; nothing more of it follows."""
        if self._stream is not self._stdout:
            self._stream.close()
            self._stream = self._stdout

    def close(self) -> None:
        """All recordings are done: JSON is one list of them."""
        if self._form == "json" and self._directory is None:
            self._write(json.dumps(self._collected, ensure_ascii=False, indent=1) + "\n")

    def _write_row(self, row: dict[str, Any]) -> None:
        self._write(json.dumps(row, ensure_ascii=False) + "\n")

    def _write(self, text: str) -> None:
        if self._directory is not None and self._stream is self._stdout:
            # Not before something is to be written: a recording that cannot be read leaves no empty file.
            self._directory.mkdir(parents=True, exist_ok=True)
            self._stream = output_file(self._directory, self._audio, self._form).open("w", encoding="utf-8")
        self._stream.write(text)
        self._stream.flush()


def output_file(directory: Path, audio: str, form: Form) -> Path:
    """The file in ``directory`` that a recording's transcript goes to; ``-`` is called stdin."""
    return directory / (("stdin" if audio == "-" else Path(audio).stem) + _SUFFIX[form])


def check_files_differ(directory: Path, audio: Sequence[str], form: Form) -> None:
    """Refuse two recordings that would be written to one file.

    Raises:
        ConfigError: naming both.
    """
    known: dict[Path, str] = {}
    for name in audio:
        file = output_file(directory, name, form)
        if file in known:
            raise ConfigError(
                f"output {file}",
                expected="recordings of different names",
                got=f"{known[file]} and {name}",
                next_step="transcribe them in separate runs, each with an --output-dir of its own",
            )
        known[file] = name


def terminal_columns() -> int:
    """Width of the terminal now: a window may be resized."""
    return shutil.get_terminal_size().columns
