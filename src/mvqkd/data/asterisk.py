"""The default corpus: Asterisk's English prompts, one human speaker, from two Debian packages.

``apt-get download`` and ``dpkg-deb -x`` need no root; where the machine has no package lists, a private copy of
them is fetched. What was unpacked is checked against pinned digests and kept in the user's cache folder, so that
the second run needs no network and every machine works on the same bytes.

Recordings: Allison Smith, CC BY-SA 3.0 (see the packages' copyright files).
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mvqkd.errors import DataError, MissingDependencyError

LICENCE = "CC BY-SA 3.0, recorded by Allison Smith"
SPEAKER = "allison"

VERSION = "1.6.1"
_PACKAGES = ("asterisk-core-sounds-en", "asterisk-core-sounds-en-g722")
_TRANSCRIPT_SHA256 = "4a5c1fea255e06020acd67efe37d162d0f0458f685efe578d224449f8e7f0bb4"
_RECORDINGS_SHA256 = "c3a5554f2f4bb977e0836b2d739adaf9d15bbbd7291bfa9edfebd28611dbee8d"
_TRANSCRIPT_FILE = "core-sounds-en.txt"
_RECORDINGS_FOLDER = "recordings"

_LOG = logging.getLogger(__name__)

# <beep>, [sound of monkeys screaming], (10 seconds of silence): not speech, or remarks about it.
_REMARK = re.compile(r"<[^>]*>|\[[^\]]*\]|\([^)]*\)")
_SPOKEN_SYMBOLS = {"*": " star ", "#": " pound "}
# Slips of the published transcript, where the recordings say the right word, and words that it spells in two ways.
_MISSPELT = {
    "umute": "unmute",
    "represenatives": "representatives",
    "un-indentified": "unidentified",
    "witheld": "withheld",
    "fourtieth": "fortieth",
    "exclaimation": "exclamation",
    "thru": "through",
    "re-record": "rerecord",
    "de-activated": "deactivated",
    "mail box": "mailbox",
    "can not": "cannot",
    "h.323": "H three two three",
}
_MISSPELT_WORD = re.compile(rf"\b({'|'.join(map(re.escape, _MISSPELT))})\b", re.IGNORECASE)


@dataclass(frozen=True)
class Prompt:
    """A transcribed prompt: its name in the package (``digits/10``), its G.722 file and what is said."""

    name: str
    path: Path
    text: str


def cache_folder() -> Path:
    """The user's cache folder for mvqkd: ``$XDG_CACHE_HOME/mvqkd`` or ``~/.cache/mvqkd``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mvqkd"


def load_prompts(cache: Path | None = None) -> list[Prompt]:
    """Prompts with human speech, sorted by name; downloads the packages on first use.

    Args:
        cache: folder for the unpacked packages; default ``cache_folder()``.
    Raises:
        MissingDependencyError: not in the cache, and this machine has no apt-get or dpkg-deb.
        DataError: the download failed, or the packages hold other content than the pinned version.
    """
    cache = cache or cache_folder()
    folder = cache / f"asterisk-core-sounds-en-{VERSION}"
    if folder.is_dir() and _digest_problem(folder):
        _LOG.warning("%s is damaged; fetching the packages again", folder)
        shutil.rmtree(folder)
    if not folder.is_dir():
        _fetch(cache, folder)
    transcript = (folder / _TRANSCRIPT_FILE).read_text(encoding="utf-8")
    prompts = []
    for name, text in sorted(parse_transcript(transcript).items()):
        path = folder / _RECORDINGS_FOLDER / f"{name}.g722"
        # One line of the transcript has no recording; silences and tones have no words.
        if text and path.is_file():
            prompts.append(Prompt(name, path, text))
    return prompts


def parse_transcript(transcript: str) -> dict[str, str]:
    """Name -> spoken text of each line ``name: text``; remarks and slips are taken out, non-speech gives ''."""
    texts: dict[str, str] = {}
    for line in transcript.splitlines():
        name, colon, text = line.partition(":")
        if not colon or line.startswith(";"):
            continue
        text = _REMARK.sub(" ", text)
        for symbol, word in _SPOKEN_SYMBOLS.items():
            text = text.replace(symbol, word)
        text = _MISSPELT_WORD.sub(lambda match: _MISSPELT[match[0].lower()], text)
        texts[name.strip()] = " ".join(text.split())
    return texts


def _fetch(cache: Path, folder: Path) -> None:
    for program, package in (("apt-get", "apt"), ("dpkg-deb", "dpkg")):
        if shutil.which(program) is None:
            raise MissingDependencyError(
                "corpus asterisk",
                expected=f"{program}, to get {' and '.join(_PACKAGES)}",
                got="no such program on this machine",
                next_step=f"install {package} (Debian, Ubuntu), copy {folder} from a machine that has it, "
                "or use your own recordings with --source manifest",
            )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as name:
        work = Path(name)
        _LOG.info("fetching %s (11 MB) into %s", " and ".join(_PACKAGES), cache)
        _download(work)
        for deb in sorted(work.glob("*.deb")):
            _run(["dpkg-deb", "-x", str(deb), str(work / "root")], work)
        unpacked = _arrange(work)
        problem = _digest_problem(unpacked)
        if problem:
            raise DataError(
                "corpus asterisk",
                expected=f"Asterisk core sounds {VERSION} ({problem[0]} sha256 {problem[1][:16]})",
                got=f"sha256 {problem[2][:16]} in {', '.join(deb.name for deb in sorted(work.glob('*.deb')))}",
                next_step=f"point apt at a mirror with version {VERSION}, or use --source manifest",
            )
        try:
            unpacked.rename(folder)
        except OSError:
            # Another process was faster; what it left is checked like ours.
            if not folder.is_dir() or _digest_problem(folder):
                raise


def _download(work: Path) -> None:
    """Put both .deb files into ``work``, with the machine's package lists or, failing that, private ones."""
    download = ["apt-get", "-q", "download", *_PACKAGES]
    if _run(download, work, check=False) is None:
        return
    (work / "lists" / "partial").mkdir(parents=True)
    (work / "cache" / "archives" / "partial").mkdir(parents=True)
    private = ["-o", f"Dir::State::Lists={work / 'lists'}", "-o", f"Dir::Cache={work / 'cache'}"]
    if os.geteuid() == 0:
        # apt would drop to its own user, who may not write here.
        private += ["-o", "APT::Sandbox::User=root"]
    _LOG.info("this machine has no usable package lists: fetching private ones")
    _run(["apt-get", "-q", *private, "update"], work)
    _run([download[0], *private, *download[1:]], work)


def _run(command: list[str], work: Path, *, check: bool = True) -> str | None:
    """Run a command; None when it succeeded, else its last error line (an exception with ``check``)."""
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        result = subprocess.run(
            command, cwd=work, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        if result.returncode == 0:
            return None
        lines = [line for line in result.stderr.splitlines() if line.startswith("E:")] or result.stderr.splitlines()
        problem = lines[-1] if lines else f"exit status {result.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if check:
        shown = " ".join(word for word in command if "=" not in word and word != "-o")
        raise DataError(
            "corpus asterisk",
            expected=f"`{shown}` to succeed",
            got=problem,
            next_step=f"check the network and apt's sources, or use --source manifest; "
            f"a copy of {cache_folder()} from another machine works offline",
        )
    return problem


def _arrange(work: Path) -> Path:
    """Move what is needed out of the unpacked packages into one folder of the cache's layout."""
    unpacked = work / "unpacked"
    unpacked.mkdir()
    root = work / "root" / "usr" / "share"
    transcripts = list(root.glob(f"doc/*/{_TRANSCRIPT_FILE}.gz"))
    recordings = list(root.glob("asterisk/sounds/*"))
    if len(transcripts) != 1 or len(recordings) != 1:
        raise DataError(
            "corpus asterisk",
            expected="one transcript and one folder of recordings in the packages",
            got=f"{len(transcripts)} and {len(recordings)}",
            next_step=f"point apt at a mirror with version {VERSION}, or use --source manifest",
        )
    (unpacked / _TRANSCRIPT_FILE).write_bytes(gzip.decompress(transcripts[0].read_bytes()))
    recordings[0].rename(unpacked / _RECORDINGS_FOLDER)
    return unpacked


def _digest_problem(folder: Path) -> tuple[str, str, str] | None:
    """(what, expected sha256, found sha256) of the first part that differs from the pinned version, or None."""
    transcript = folder / _TRANSCRIPT_FILE
    found = hashlib.sha256(transcript.read_bytes() if transcript.is_file() else b"").hexdigest()
    if found != _TRANSCRIPT_SHA256:
        return "transcript", _TRANSCRIPT_SHA256, found
    root = folder / _RECORDINGS_FOLDER
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.g722"))
    digest = hashlib.sha256()
    for name in names:
        content = (root / name).read_bytes()
        # Lengths before name and content: no two different trees give the same stream of bytes.
        digest.update(len(name.encode()).to_bytes(4, "big") + name.encode() + len(content).to_bytes(8, "big"))
        digest.update(content)
    if digest.hexdigest() != _RECORDINGS_SHA256:
        return "recordings", _RECORDINGS_SHA256, digest.hexdigest()
    return None
