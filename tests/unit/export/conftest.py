"""A small student exported once: exporting is the slow part, so every test of a graph shares it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mvqkd.data.features import log_mel
from mvqkd.data.tokens import Tokens
from mvqkd.decode.onnx_runtime import OFFLINE, graph_file
from mvqkd.decode.torch_runtime import TorchTransducer
from mvqkd.export.graphs import export_offline
from mvqkd.export.quantize import quantize_matmuls
from mvqkd.student.model import Student
from mvqkd.testing.corpus import WORDS, synthesize
from mvqkd.testing.student import talkative_student

LETTERS = sorted(set("".join(WORDS)))


@dataclass(frozen=True)
class Exported:
    """A student, its graphs, and a directory that holds them as a bundle does."""

    student: Student
    graphs: dict[str, Any]
    bundle: Path

    @property
    def reference(self) -> TorchTransducer:
        return TorchTransducer(self.student)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tokens = Tokens.train(["".join(LETTERS)], "char", 0)
    student = talkative_student(tokens.vocab_size)
    graphs: dict[str, Any] = dict(export_offline(student, opset=18, lineage={"student-checkpoint": "0123abcd"}))
    graphs["encoder.int8"] = quantize_matmuls(graphs["encoder"])
    bundle = tmp_path_factory.mktemp("bundle")
    (bundle / OFFLINE).mkdir()
    for name, graph in graphs.items():
        (bundle / OFFLINE / f"{name}.onnx").write_bytes(graph.SerializeToString(deterministic=True))
    assert (bundle / graph_file("encoder", int8=True)).is_file()
    tokens.save(bundle)
    yield Exported(student, graphs, bundle)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def recordings() -> list[NDArray[np.float32]]:
    """Synthetic utterances of unequal, odd lengths."""
    rng = np.random.default_rng(0)
    whole = [synthesize(list(WORDS[3 * i : 3 * i + 3]), speaker=i, rng=rng) for i in range(4)]
    return [whole[0], whole[1][:12_345], whole[2][:20_001], whole[3]]


@pytest.fixture(scope="session")
def features(recordings: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    return [log_mel(samples) for samples in recordings]


@pytest.fixture
def altered(exported: Exported, tmp_path: Path) -> Callable[..., Path]:
    """Copy of the bundle with one graph changed by a function."""

    def alter(part: str, change: Callable[[Any], None]) -> Path:
        import onnx

        tokens = exported.bundle / "tokens.txt"
        (tmp_path / tokens.name).write_bytes(tokens.read_bytes())
        for name, graph in exported.graphs.items():
            copy = onnx.ModelProto()
            copy.CopyFrom(graph)
            if name == part:
                change(copy)
            path = tmp_path / OFFLINE / f"{name}.onnx"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(copy.SerializeToString())
        return tmp_path

    return alter
