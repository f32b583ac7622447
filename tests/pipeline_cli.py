"""`mvqkd pipeline` called in this process against the stand-in of ``tests.kfp_server``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from mvqkd.cli.main import run
from tests.kfp_server import KfpServer


@dataclass
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    def run_id(self) -> str:
        """Id of the run that it names first."""
        found = re.search(r"run ([0-9a-f-]{36})", self.out)
        assert found, self.out
        return found[1]


@dataclass
class Cli:
    """Commands for one server, away from any params.yaml and from this machine's environment."""

    server: KfpServer
    package: Path
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> Result:
        """Call ``mvqkd pipeline ARGUMENTS``."""
        self.capsys.readouterr()
        code = run(["pipeline", *arguments])
        captured = self.capsys.readouterr()
        return Result(code, captured.out, captured.err)

    def submit(self, *arguments: str) -> Result:
        """``submit`` of the small pipeline."""
        return self("submit", "--host", self.server.url, "--package", str(self.package), *arguments)

    def schedule(self, *arguments: str) -> Result:
        """``schedule``, of the small pipeline."""
        return self("schedule", *arguments, "--host", self.server.url, "--package", str(self.package))

    def status(self, *arguments: str) -> Result:
        """``status``."""
        return self("status", "--host", self.server.url, *arguments)


def isolate(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Take away what the environment and the working directory would add."""
    for name in ("HOST", "NAMESPACE", "TOKEN", "TOKEN_FILE", "COOKIES", "CA_CERT"):
        monkeypatch.delenv(f"MVQKD_KFP_{name}", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.chdir(folder)
