"""A bundle, another that says the same in lower case, and a server of both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mvqkd.artifacts import Artifact
from mvqkd.testing.tones import make_tone_bundle
from tests.serving import Server, make_other_bundle, serving


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tone_bundle(tmp_path_factory.mktemp("serve") / "bundle")


@pytest.fixture(scope="session")
def other_bundle(bundle: Artifact) -> Artifact:
    return make_other_bundle(bundle.path, bundle.path.with_name("other"))


@pytest.fixture(scope="session")
def server(bundle: Artifact, other_bundle: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with tight limits; tests that end it start their own."""
    limits = ["--max-streams", "4", "--max-upload-mb", "1", "--max-queue-s", "2", "--idle-s", "3"]
    directory = tmp_path_factory.mktemp("server")
    (directory / "tmp").mkdir()
    options = ["--challenger", str(other_bundle.path), "--max-duration-s", "200", *limits]
    with serving(bundle.path, directory, *options, TMPDIR=str(directory / "tmp")) as running:
        yield running
        assert running.process.poll() is None, "it has survived all tests"
        assert "Traceback" not in running.log.read_text()
