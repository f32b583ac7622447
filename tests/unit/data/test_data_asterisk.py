"""The default corpus without the network: apt-get is a script that serves packages built here with dpkg-deb."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from mvqkd.data import asterisk
from mvqkd.errors import DataError, MissingDependencyError

TRANSCRIPT = """; Core Asterisk Sounds in English

activated: Activated.
conf-adminmenu-menu8: Press 1 to mute or umute all, then * or #.
digits/h-40: fourtieth
letters/at: at [@]
confbridge-join: <beep ascending>
silence/1: (1 second of silence)
spy-iax2: IAX (note: does not say "2")
pls-try-call-later: has no recording
"""
RECORDED = [
    "activated",
    "conf-adminmenu-menu8",
    "digits/h-40",
    "letters/at",
    "confbridge-join",
    "silence/1",
    "spy-iax2",
]

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs Debian's dpkg-deb")


def test_remarks_symbols_and_slips_are_taken_out() -> None:
    assert asterisk.parse_transcript(TRANSCRIPT) == {
        "activated": "Activated.",
        "conf-adminmenu-menu8": "Press 1 to mute or unmute all, then star or pound .",
        "digits/h-40": "fortieth",
        "letters/at": "at",
        "confbridge-join": "",
        "silence/1": "",
        "spy-iax2": "IAX",
        "pls-try-call-later": "has no recording",
    }


def _build(folder: Path, package: str, files: dict[str, bytes]) -> None:
    tree = folder / f"tree-{package}"
    (tree / "DEBIAN").mkdir(parents=True)
    control = (
        f"Package: {package}\nVersion: 1.6.1-1\nArchitecture: all\nMaintainer: n <n@example.org>\nDescription: t\n"
    )
    (tree / "DEBIAN" / "control").write_text(control)
    for name, content in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    subprocess.run(["dpkg-deb", "-b", str(tree), str(folder / f"{package}_1.6.1-1_all.deb")], check=True, stdout=-3)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with both packages and an apt-get that copies them from there and notes its calls in ``calls``."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    text = {f"usr/share/doc/p/{asterisk._TRANSCRIPT_FILE}.gz": gzip.compress(TRANSCRIPT.encode())}
    sounds = {f"usr/share/asterisk/sounds/en_X/{name}.g722": name.encode() for name in RECORDED}
    _build(folder, "asterisk-core-sounds-en", text)
    _build(folder, "asterisk-core-sounds-en-g722", sounds)
    programs = tmp_path / "bin"
    programs.mkdir()
    script = programs / "apt-get"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/calls\n'
        f'case "$*" in\n'
        f"*update*) touch {folder}/updated ;;\n"
        f"*download*) if [ -e {folder}/needs-update ] && [ ! -e {folder}/updated ]; then\n"
        f"  echo 'W: noise' >&2; echo 'E: Unable to locate package' >&2; exit 100; fi\n"
        f"  cp {folder}/*.deb . ;;\n"
        f"esac\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(asterisk, "_TRANSCRIPT_SHA256", asterisk.hashlib.sha256(TRANSCRIPT.encode()).hexdigest())
    probe = tmp_path / "probe"
    for name in RECORDED:
        path = probe / "recordings" / f"{name}.g722"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (probe / asterisk._TRANSCRIPT_FILE).write_text(TRANSCRIPT)
    problem = asterisk._digest_problem(probe)
    assert problem is not None
    monkeypatch.setattr(asterisk, "_RECORDINGS_SHA256", problem[2])
    return folder


def _calls(mirror: Path) -> list[str]:
    return (mirror / "calls").read_text().splitlines()


def test_prompts_are_fetched_once_and_then_come_from_the_cache(tmp_path: Path, mirror: Path) -> None:
    prompts = asterisk.load_prompts(tmp_path / "cache")
    assert [prompt.name for prompt in prompts] == [
        "activated", "conf-adminmenu-menu8", "digits/h-40", "letters/at", "spy-iax2",
    ]  # fmt: skip
    assert [prompt.path.read_bytes() for prompt in prompts] == [prompt.name.encode() for prompt in prompts]
    assert asterisk.load_prompts(tmp_path / "cache") == prompts
    assert len(_calls(mirror)) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["asterisk-core-sounds-en-1.6.1"]


def test_a_damaged_cache_is_fetched_again(tmp_path: Path, mirror: Path) -> None:
    damaged = asterisk.load_prompts(tmp_path / "cache")[0].path
    damaged.write_bytes(b"flipped")
    assert asterisk.load_prompts(tmp_path / "cache")[0].path.read_bytes() == b"activated"
    assert len(_calls(mirror)) == 2


def test_without_package_lists_private_ones_are_fetched(tmp_path: Path, mirror: Path) -> None:
    (mirror / "needs-update").touch()
    assert len(asterisk.load_prompts(tmp_path / "cache")) == 5
    first, update, second = _calls(mirror)
    assert first == "-q download asterisk-core-sounds-en asterisk-core-sounds-en-g722"
    assert update.endswith("update")
    for call in (update, second):
        assert f"Dir::State::Lists={tmp_path / 'cache'}" in call


def test_other_content_than_the_pinned_is_refused_and_not_cached(
    tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asterisk, "_RECORDINGS_SHA256", "0" * 64)
    with pytest.raises(DataError, match=r"recordings sha256 0{16}\), got sha256 .*_1.6.1-1_all.deb; point apt at"):
        asterisk.load_prompts(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_failing_download_says_what_apt_said(tmp_path: Path, mirror: Path) -> None:
    (mirror / "needs-update").touch()
    (mirror / "updated").mkdir()
    for deb in mirror.glob("*.deb"):
        deb.unlink()
    with pytest.raises(DataError, match=r"to succeed, got cp: .*; check the network") as caught:
        asterisk.load_prompts(tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_a_machine_without_apt_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match=r"expected apt-get.*--source manifest"):
        asterisk.load_prompts(tmp_path / "cache")


def test_cache_folder_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert asterisk.cache_folder() == tmp_path / "mvqkd"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert asterisk.cache_folder() == Path.home() / ".cache" / "mvqkd"
