"""A registered version says how it was made, and is made again from it: the same indexes, the same word error rate."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mvqkd.adapters import reproduction
from mvqkd.adapters.dvc_identity import directory_md5
from mvqkd.adapters.mlflow_store import connect
from mvqkd.adapters.registry_review import history
from mvqkd.adapters.reproduction import Compared, Made, Reproduced, other_versions, read_recipe, rebuild, script
from mvqkd.artifacts import load_artifact
from mvqkd.cli import reproduce as reproduce_command
from mvqkd.config import TrainStudentConfig, load_section
from mvqkd.errors import ArtifactError, RegistryError
from mvqkd.testing.corpus import make_corpus
from mvqkd.testing.lineage import Lineage, make_lineage
from tests.judging import judge
from tests.pipeline_budget import tiny_params
from tests.registry_store import MODEL, VARIABLES, embedded_store, publish

ROOT = Path(__file__).parents[2]
URI = f"models:/{MODEL}@champion"


def run_reproduce(*words: str) -> int:
    parser = argparse.ArgumentParser()
    reproduce_command.add_arguments(parser)
    return reproduce_command.run(parser.parse_args(words))


@pytest.fixture
def lineage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lineage:
    """A registered version; its code is this checkout's."""
    monkeypatch.delenv("MVQKD_DVC_REMOTE", raising=False)
    embedded_store(tmp_path, monkeypatch)
    monkeypatch.setattr("mvqkd.artifacts._git_sha", lambda: "c0ffee" + "0" * 34)
    lineage = make_lineage(tmp_path / "artifacts", wer=0.25)
    judge(lineage)
    publish(lineage)
    return lineage


def test_a_version_carries_every_section_and_id(lineage: Lineage, tmp_path: Path) -> None:
    recipe = read_recipe(URI)
    assert recipe.version == 1
    assert recipe.wer == 0.25
    assert recipe.git_sha == "c0ffee" + "0" * 34
    assert recipe.other_code == []
    ids = {made.kind: made.id for made in recipe.made}
    assert ids["codebook-indexes"] == lineage.codebook_indexes.id
    assert [made.stage for made in recipe.made] == [
        *("prepare-data", "extract-teacher", "fit-quantizer", "encode-ci", "train-student", "evaluate", "export-onnx")
    ]
    dvc = {made.kind: made.dvc for made in recipe.made}
    assert dvc["codebook-indexes"] == directory_md5(lineage.codebook_indexes.path)
    (tmp_path / "params.yaml").write_text(recipe.params)
    section = load_section(TrainStudentConfig, tmp_path / "params.yaml")
    assert section.model_dump(mode="json") == lineage.student.config
    # The run's page has both files as well, for people.
    client = connect()
    run_id = client.get_model_version(MODEL, "1").run_id
    assert {file.path for file in client.list_artifacts(run_id, "lineage")} == {
        "lineage/params.yaml",
        "lineage/lineage.json",
    }


def test_the_script_is_a_shell_s(lineage: Lineage, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--repository", "ssh://host/it's code", "--remote", "s3://ci/$HOME", "--into", "out; rm -rf x")
    assert run_reproduce(URI, *words) == 0
    text = capsys.readouterr().out
    checked = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    lines = text.splitlines()
    assert "git clone 'ssh://host/it'\"'\"'s code' 'out; rm -rf x'" in lines
    assert f"git checkout --quiet c0ffee{'0' * 34}" in lines
    identity = directory_md5(lineage.codebook_indexes.path)
    assert (
        f"mvqkd pull {identity} --remote 's3://ci/$HOME' --out artifacts/codebook-indexes || mvqkd encode-ci" in lines
    )
    assert "mvqkd train-student" in lines
    assert f"# expected: onnx-bundle {lineage.bundle.short_id}" in lines
    # What is between is params.yaml, word for word.
    begin, end = lines.index("cat > params.yaml <<'END_OF_PARAMS'"), lines.index("END_OF_PARAMS")
    assert set(yaml.safe_load("\n".join(lines[begin + 1 : end]))) >= {"prepare-data", "train-student", "promote"}


def test_without_a_remote_all_is_made(lineage: Lineage) -> None:
    text = script(read_recipe(URI), repository=None, remote=None, directory=Path("again"))
    assert "mvqkd pull" not in text
    assert "git clone REPOSITORY again" in text
    assert "\nmvqkd encode-ci\n" in text


def test_a_recipe_that_was_changed_is_refused(lineage: Lineage) -> None:
    client = connect()
    place = Path(client.get_model_version_download_uri(MODEL, "1")) / "lineage" / "params.yaml"
    place.write_text(place.read_text().replace("mvqkd-student", "mvqkd-studenT"))
    with pytest.raises(RegistryError, match=r"expected files .* as its tag states"):
        read_recipe(URI)
    shutil.rmtree(place.parent)
    with pytest.raises(RegistryError, match="got files none"):
        read_recipe(URI)
    client.delete_model_version_tag(MODEL, "1", "mvqkd.lineage_sha256")
    with pytest.raises(RegistryError, match="register it again"):
        read_recipe(URI)


def test_code_that_was_in_no_checkout_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded_store(tmp_path, monkeypatch)
    monkeypatch.setattr("mvqkd.artifacts._git_sha", lambda: None)
    lineage = make_lineage(tmp_path / "artifacts")
    judge(lineage)
    publish(lineage)
    with pytest.raises(RegistryError, match="the code was in no checkout"):
        read_recipe(URI)


def test_a_commit_that_nobody_has_is_said(lineage: Lineage, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", "empty"], check=True)
    with pytest.raises(RegistryError, match=r"git checkout: .* a|git checkout: .*--repository"):
        rebuild(read_recipe(URI), repository="empty", remote=None, directory=tmp_path / "again")


def test_what_differs_is_said(lineage: Lineage) -> None:
    recipe = read_recipe(URI)
    assert other_versions(recipe) == []
    changed = dataclasses.replace(recipe.made[-1], versions={"torch": "1.0", "nonsuch": "2", "python": "2.7"})
    lines = other_versions(dataclasses.replace(recipe, made=(*recipe.made[:-1], changed)))
    assert [line.partition(" was ")[0] for line in lines] == ["torch", "nonsuch", "python"]
    assert "nonsuch was 2, here it is not installed" in lines[1]

    def reproduced(indexes: str, wer: float) -> Reproduced:
        made = Made("encode-ci", "codebook-indexes", "a", None, None, {})
        other = Made("train-student", "student-checkpoint", "b", None, None, {})
        return Reproduced((Compared(made, indexes, ""), Compared(other, "c", "")), 0.25, wer)

    assert reproduced("a", 0.25).is_same
    assert not reproduced("x", 0.25).is_same
    assert not reproduced("a", 0.24).is_same


def copy_of_the_code(folder: Path) -> str:
    """A repository whose only commit is the code that lies here; returns its path."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    who = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "commit.gpgsign=false")
    for command in (("init", "--quiet"), ("add", "src"), (*who, "commit", "--quiet", "-m", "the code")):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    return str(folder)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_champion_is_made_again_from_a_fresh_clone_and_a_remote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    repository, remote = copy_of_the_code(tmp_path / "repository"), str(tmp_path / "remote")
    params = tiny_params(make_corpus(tmp_path / "corpus", num_utterances=24))
    # Long enough to say something, if little that is right.
    params["train-student"] |= {"num_epochs": 24, "learning_rate": 0.01}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "repository" / "src")}

    def command(*words: str) -> str:
        result = subprocess.run(
            [sys.executable, "-m", "mvqkd", *words], env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    stages = ["prepare-data", "extract-teacher", "fit-quantizer", "encode-ci", "train-student", "evaluate"]
    for stage in [*stages, "export-onnx", "gate", "promote"]:
        command(stage)
    head = subprocess.run(["git", "-C", repository, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    champion = load_artifact("artifacts/bundle", "onnx-bundle")
    assert champion.git_sha == head.stdout.strip()
    assert history("tiny").champion == 1
    for kind in ("data", "teacher-embeddings", "quantizer", "codebook-indexes"):
        command("push", f"artifacts/{kind}", "--remote", remote)
    indexes = {path.name: path.read_bytes() for path in Path("artifacts/codebook-indexes").glob("shard-*.npy")}
    wer = json.loads(Path("artifacts/bundle/wer.json").read_text())["rows"]
    assert any(row["ins"] + row["sub"] for row in wer), "who says nothing has the same WER whatever it has learnt"
    # Nothing of the first time is left but the registry, the repository, the remote and the recordings.
    shutil.rmtree("artifacts")

    with_remote = ("models:/tiny@champion", "--run", "--repository", repository, "--remote", remote, "--into", "fresh")
    assert run_reproduce(*with_remote) == 0, capsys.readouterr().err
    table = capsys.readouterr().out
    assert table.count("from the remote") == 4
    assert table.count("made again") == 3
    assert "OTHER" not in table
    again = Path("fresh/artifacts")
    assert {path.name: path.read_bytes() for path in (again / "codebook-indexes").glob("shard-*.npy")} == indexes
    assert json.loads((again / "bundle" / "wer.json").read_text())["rows"] == wer
    assert load_artifact(again / "bundle").id == champion.id

    # A second call goes on from what is there.
    shutil.rmtree(again / "bundle")
    assert run_reproduce(*with_remote) == 0
    table = capsys.readouterr().out
    assert table.count("there already") == 6
    assert table.count("made again") == 1

    # And without a remote, from the recordings alone.
    alone = ("models:/tiny/1", "--run", "--repository", repository, "--into", "alone")
    monkeypatch.delenv("MVQKD_DVC_REMOTE", raising=False)
    assert run_reproduce(*alone) == 0
    table = capsys.readouterr().out
    assert table.count("made again") == 7
    assert "OTHER" not in table
    indexes_again = Path("alone/artifacts/codebook-indexes")
    assert {path.name: path.read_bytes() for path in indexes_again.glob("shard-*.npy")} == indexes

    # A stage that fails is named, and the exit code of a result that differs is not 0.
    (tmp_path / "corpus" / "manifest.jsonl").unlink()
    with pytest.raises(ArtifactError, match="stage prepare-data in broken: expected exit code 0"):
        run_reproduce("models:/tiny/1", "--run", "--repository", repository, "--into", "broken")
    manifest = Path("fresh/artifacts/codebook-indexes")
    shutil.rmtree(manifest)
    shutil.copytree(indexes_again, manifest)
    monkeypatch.setattr(reproduction, "_wer", lambda _bundle: 0.123)
    assert run_reproduce(*with_remote) == 1
    assert re.search(r"WER of the bundle +[\d.]+ % +12\.3000 % +OTHER", capsys.readouterr().out)
