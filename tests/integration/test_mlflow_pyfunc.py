"""The registered version as MLflow loads it: code and ONNX, no pickle, the same texts as the bundle itself."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mvqkd.adapters.mlflow_store import connect, import_mlflow
from mvqkd.adapters.registration import make_version, save_version
from mvqkd.adapters.registry import resolve_bundle
from mvqkd.adapters.run_records import TAG_BUNDLE
from mvqkd.adapters.tracking import LoggedRun
from mvqkd.artifacts import Artifact, PartialArtifact, load_artifact, write_json
from mvqkd.config import ModelConfig
from mvqkd.data.tokens import Tokens
from mvqkd.decode.onnx_graphs import graph_file
from mvqkd.decode.onnx_runtime import OnnxTransducer
from mvqkd.frames import SAMPLE_RATE_HZ

MODEL = "tiny"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A real bundle of an untrained student, small enough to export in seconds."""
    import torch

    from mvqkd.export.graphs import write_graphs
    from mvqkd.student.model import Student

    torch.manual_seed(1)
    tokens = Tokens.train(["HELLO WORLD", "THE QUICK BROWN FOX"], "char", 30)
    sizes = ModelConfig(encoder_dim=16, num_encoder_layers=1, num_heads=2, feedforward_dim=16, decoder_dim=16)
    student = Student(sizes, tokens.vocab_size).eval()
    with torch.no_grad():
        # Untrained, it says blank all the time; without that there is something to compare.
        student.joiner.output.bias[0] -= 0.5
    partial = PartialArtifact(tmp_path_factory.mktemp("real") / "bundle", "onnx-bundle", stage="export-onnx", config={})
    write_graphs(student, partial.path, opset=18, chunk_frames=4, lineage={}, int8=False)
    tokens.save(partial.path)
    write_json(partial.path / "bundle.json", {"lineage": {}})
    return partial.commit()


@pytest.fixture
def recordings() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(int(SAMPLE_RATE_HZ * s))).astype(np.float32) for s in (0.7, 1.3)]


def test_loads_without_pickle_and_says_what_the_bundle_says(
    bundle: Artifact, recordings: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.chdir(tmp_path)
    expected = OnnxTransducer(bundle.path).transcribe(recordings)
    assert all(expected), "an empty text would compare equal to anything that failed quietly"

    client = connect()
    experiment = client.create_experiment("test", str(tmp_path / "mlartifacts"))
    run = client.create_run(experiment).info.run_id
    client.create_registered_model(MODEL)
    logged = LoggedRun(run, experiment, reused=False, adopted=False)
    version = make_version(client, MODEL, bundle, logged, tags={TAG_BUNDLE: bundle.id})
    files = {path.suffix for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file()}
    assert not files & {".pkl", ".pickle", ".pt", ".pth", ".bin"}

    assert load_artifact(resolve_bundle(f"models:/{MODEL}/{version}")).id == bundle.id, "the same after all checks"
    mlflow = import_mlflow()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    try:
        model = mlflow.pyfunc.load_model(f"models:/{MODEL}/{version}")
    finally:
        mlflow.set_tracking_uri(None)
    assert model.predict(recordings) == expected
    assert model.predict([samples.tolist() for samples in recordings]) == expected
    paths = [str(tmp_path / f"{i}.wav") for i in range(len(recordings))]
    for path, samples in zip(paths, recordings, strict=True):
        soundfile.write(path, samples, SAMPLE_RATE_HZ, subtype="FLOAT")
    assert model.predict(paths) == expected
    assert model.predict([paths[0], recordings[1]]) == expected
    # What the version's page shows as input and output is true.
    signature = model.metadata.signature
    assert (signature.inputs.to_dict(), signature.outputs.to_dict()) == (
        [{"type": "any", "required": True}],
        [{"type": "string", "required": True}],
    )
    (text,) = model.predict(model.input_example)
    assert text == OnnxTransducer(bundle.path).transcribe([np.zeros(4000, np.float32)])[0]


def test_damaged_version_does_not_load(bundle: Artifact, tmp_path: Path) -> None:
    """In a process of its own, as a server would: the file that MLflow runs is the one in the version."""
    save_version(bundle, tmp_path / "model")
    graph = tmp_path / "model" / "artifacts" / "bundle" / graph_file("joiner")
    graph.write_bytes(graph.read_bytes()[:-1] + b"\x00")
    script = f"""
        import mlflow.pyfunc
        mlflow.pyfunc.load_model({str(tmp_path / "model")!r})
    """
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    assert result.returncode != 0
    assert "ArtifactCorruptError" in result.stderr
    assert "joiner.onnx" in result.stderr
