"""What lies in a registered version: nothing but what was registered, checked before anything is opened."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import yaml

from mvqkd.adapters.mlflow_store import import_mlflow
from mvqkd.adapters.registration import save_version
from mvqkd.adapters.registry_files import CODE_FILE, LINEAGE_DIRECTORY, files_digest, verified_bundle
from mvqkd.artifacts import Artifact, load_artifact
from mvqkd.errors import ArtifactCorruptError, MvqkdError, RegistryError
from mvqkd.testing.tones import make_tone_bundle


class Exploit:
    """A pickle that does something when it is opened."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("opened",)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Path]:
    """A bundle, and a version's directory of it."""
    import_mlflow()
    folder = tmp_path_factory.mktemp("saved")
    bundle = make_tone_bundle(folder / "bundle")
    save_version(bundle, folder / "version")
    (folder / "version" / LINEAGE_DIRECTORY).mkdir()
    (folder / "version" / LINEAGE_DIRECTORY / "params.yaml").write_text("gate: {}\n")
    return bundle, folder / "version"


@pytest.fixture
def version(saved: tuple[Artifact, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved[1], tmp_path / "version")
    return tmp_path / "version"


def check(version: Path, saved: tuple[Artifact, Path], *, digest: bool = False) -> Path:
    return verified_bundle(version, "model 1", bundle_id=saved[0].id, digest=files_digest(saved[1]) if digest else None)


def test_what_was_registered_passes(version: Path, saved: tuple[Artifact, Path]) -> None:
    # MLflow adds this one to whatever it downloads.
    (version / "registered_model_meta").write_text("model_name: m\n")
    assert check(version, saved, digest=True) == version / "artifacts" / "bundle"


def test_a_bundle_alone_passes(saved: tuple[Artifact, Path]) -> None:
    assert verified_bundle(saved[0].path, "model 1", bundle_id=saved[0].id, digest=None) == saved[0].path


def test_links_are_followed_on_the_way_in(saved: tuple[Artifact, Path], tmp_path: Path) -> None:
    bundle = saved[0]
    shutil.copytree(bundle.path, tmp_path / "bundle", copy_function=os.symlink)
    (tmp_path / "linked").symlink_to(tmp_path / "bundle")
    save_version(load_artifact(tmp_path / "linked"), tmp_path / "version")
    assert check(tmp_path / "version", saved) == tmp_path / "version" / "artifacts" / "bundle"
    assert not any(path.is_symlink() for path in (tmp_path / "version").rglob("*"))


def test_it_says_nothing_of_the_machine_that_registered_it(saved: tuple[Artifact, Path]) -> None:
    for file in saved[1].glob("*"):
        if file.is_file():
            assert str(saved[1].parent) not in file.read_text(), file
            assert str(Path(__file__).parents[3]) not in file.read_text(), file


@pytest.mark.parametrize(
    "name", ["MLmodel", "requirements.txt", CODE_FILE, "input_example.json", "lineage/params.yaml"]
)
def test_one_byte_of_any_file_is_noticed(name: str, version: Path, saved: tuple[Artifact, Path]) -> None:
    content = bytearray((version / name).read_bytes())
    content[-2] ^= 1
    (version / name).write_bytes(content)
    with pytest.raises(RegistryError, match=r"expected files .* as its tag states|belongs|description"):
        check(version, saved, digest=True)


def test_one_byte_of_the_bundle_is_noticed(version: Path, saved: tuple[Artifact, Path]) -> None:
    for name in saved[0].files:
        file = version / "artifacts" / "bundle" / name
        before = file.read_bytes()
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(ArtifactCorruptError, match=file.name):
            check(version, saved)
        file.write_bytes(before)
    check(version, saved)


@pytest.mark.parametrize(
    ("name", "protocol", "expected"),
    [
        ("artifacts/model.pkl", 4, "can run code"),
        ("artifacts/bundle/model.joblib", 4, "can run code"),
        ("python_model.cloudpickle", 5, "can run code"),
        ("artifacts/bundle/README.txt", 2, "a pickle"),
        ("artifacts/bundle/offline/extra.onnx", 5, "a pickle"),
        ("artifacts/data", 0, "belongs neither"),
    ],
)
def test_a_pickle_is_refused_unopened(
    name: str, protocol: int, expected: str, version: Path, saved: tuple[Artifact, Path]
) -> None:
    (version / name).write_bytes(pickle.dumps(Exploit(), protocol))
    with pytest.raises(RegistryError, match=expected) as caught:
        check(version, saved)
    assert repr(name) in str(caught.value)
    assert not Path("opened").exists()


def test_a_pickle_that_the_bundle_lists_is_refused(version: Path, tmp_path: Path) -> None:
    """Somebody who makes a bundle may list what he likes in it."""
    from mvqkd.artifacts import PartialArtifact

    partial = PartialArtifact(tmp_path / "bad", "onnx-bundle", stage="export-onnx", config={})
    (partial.path / "weights.onnx").write_bytes(pickle.dumps(Exploit()))
    bad = partial.commit()
    shutil.rmtree(version / "artifacts" / "bundle")
    shutil.copytree(bad.path, version / "artifacts" / "bundle")
    with pytest.raises(RegistryError, match=r"weights\.onnx'.*got a pickle"):
        verified_bundle(version, "model 1", bundle_id=bad.id, digest=None)
    assert not Path("opened").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"loader_module": "os"},
        {"loader_module": "mlflow.sklearn"},
        {"model_code_path": "other.py"},
        {"python_model": "python_model.pkl"},
        {"code": "code"},
        {"config": "config.yml"},
    ],
)
def test_a_description_that_would_run_something_else_is_refused(
    changes: dict[str, str], version: Path, saved: tuple[Artifact, Path]
) -> None:
    described = yaml.safe_load((version / "MLmodel").read_text())
    described["flavors"]["python_function"] |= changes
    (version / "MLmodel").write_text(yaml.safe_dump(described))
    with pytest.raises(RegistryError, match="MLflow would run something else"):
        check(version, saved)


@pytest.mark.parametrize(
    "text", ["", "flavors: []", "flavors: {sklearn: {}}", "{", "!!python/object/apply:os.mkdir [opened]"]
)
def test_a_description_of_another_kind_is_refused(text: str, version: Path, saved: tuple[Artifact, Path]) -> None:
    (version / "MLmodel").write_text(text)
    with pytest.raises(RegistryError, match="no description that we write"):
        check(version, saved)
    assert not Path("opened").exists()


def test_a_second_flavour_is_refused(version: Path, saved: tuple[Artifact, Path]) -> None:
    described = yaml.safe_load((version / "MLmodel").read_text())
    described["flavors"]["sklearn"] = {"pickled_model": "model.skops"}
    (version / "MLmodel").write_text(yaml.safe_dump(described))
    with pytest.raises(RegistryError, match=r"something else: .* sklearn"):
        check(version, saved)


def test_links_are_refused(version: Path, saved: tuple[Artifact, Path]) -> None:
    (version / "artifacts" / "bundle" / "notes").symlink_to("/etc/hostname")
    with pytest.raises(RegistryError, match="got a link"):
        check(version, saved)


def test_names_that_lead_out_of_the_bundle_are_refused(version: Path, tmp_path: Path) -> None:
    from mvqkd.artifacts import artifact_id, file_sha256

    secret = version / "artifacts" / "tokens.txt"
    secret.write_text("outside")
    manifest = version / "artifacts" / "bundle" / "artifact.json"
    record = json.loads(manifest.read_text())
    record["files"]["../tokens.txt"] = {"sha256": file_sha256(secret), "size_bytes": secret.stat().st_size}
    record["id"] = artifact_id("onnx-bundle", record["files"], record["parents"], record["facts"])
    manifest.write_text(json.dumps(record))
    with pytest.raises(MvqkdError, match=r"\.\./tokens\.txt|artifacts/tokens\.txt"):
        verified_bundle(version, "model 1", bundle_id=record["id"], digest=None)


def test_another_bundle_is_refused(version: Path, saved: tuple[Artifact, Path]) -> None:
    with pytest.raises(RegistryError, match=f"expected bundle {'0' * 12} as its tag states, got bundle"):
        verified_bundle(version, "model 1", bundle_id="0" * 64, digest=None)


def test_nothing_there(tmp_path: Path) -> None:
    for place, expected in ((tmp_path, "no bundle"), (tmp_path / "gone", "no such directory")):
        with pytest.raises(RegistryError, match=f"got {expected}"):
            verified_bundle(place, "model 1", bundle_id=None, digest=None)
