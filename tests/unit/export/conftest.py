"""A small student exported once: exporting is the slow part, so every test of a graph shares it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from mvqkd.data.features import log_mel
from mvqkd.data.tokens import Tokens
from mvqkd.decode.torch_runtime import TorchTransducer
from mvqkd.export.graphs import write_graphs
from mvqkd.student.model import Student
from mvqkd.testing.corpus import WORDS, synthesize
from mvqkd.testing.student import talkative_student

LETTERS = sorted(set("".join(WORDS)))


@dataclass(frozen=True)
class Exported:
    """A student, its graphs by their paths in a bundle, and a directory that holds them as a bundle does."""

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
    bundle = tmp_path_factory.mktemp("bundle")
    write_graphs(student, bundle, opset=18, chunk_frames=4, lineage={"student-checkpoint": "0123abcd"}, int8=True)
    graphs = {path.relative_to(bundle).as_posix(): onnx.load(path) for path in bundle.glob("*/*.onnx")}
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
    """Copy of the bundle with the graph of a path changed by a function."""

    def alter(name: str, change: Callable[[Any], None]) -> Path:
        shutil.copytree(exported.bundle, tmp_path, dirs_exist_ok=True)
        if name in exported.graphs:
            graph = onnx.load(tmp_path / name)
            change(graph)
            (tmp_path / name).write_bytes(graph.SerializeToString())
        return tmp_path

    return alter
