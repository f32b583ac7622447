"""encode-ci as eight processes, three of them killed in mid-run and started again: the merged bytes are those of one.

At most two processes run at once. Which ranks are killed, and after how many of their shards, is drawn with a seed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from mvqkd.artifacts import Artifact, load_artifact
from mvqkd.cli.main import run
from mvqkd.codebook.encode import part_path
from mvqkd.codebook.store import CodebookIndexStore
from mvqkd.testing.corpus import make_corpus
from tests.pipeline_budget import tiny_params

WORLD_SIZE, KILLED, AT_ONCE, SEED = 8, 3, 2, 6
SPEEDS, SHARD_CUTS = [0.9, 1.0, 1.1], 1


@dataclass
class Process:
    """A rank's process; ``doomed_after`` shards on disk it is killed."""

    out: Path
    arguments: list[str]
    doomed_after: int | None = None
    popen: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "mvqkd", "encode-ci", *self.arguments]
        self.popen = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def finished_shards(self) -> list[Path]:
        """Shards that are on disk with their record while the artifact is not."""
        records = self.out.parent.glob(f".{self.out.name}.partial-*/.shard-*.json")
        return sorted(path.with_name(f"{path.stem.removeprefix('.')}.npy") for path in records)

    def kill(self, num_shards: int) -> dict[str, int]:
        """SIGKILL in mid-run; gives the shards that were finished, with the time each was written."""
        # Stopped first: else it might finish between the look at its shards and the signal.
        self.popen.send_signal(signal.SIGSTOP)
        finished = self.finished_shards()
        self.popen.send_signal(signal.SIGKILL)
        self.popen.communicate()
        assert self.popen.returncode == -signal.SIGKILL, "it ended before it could be killed"
        assert 1 <= len(finished) < num_shards
        assert not self.out.exists()
        return {path.name: path.stat().st_mtime_ns for path in finished}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, embeddings and quantizer of a tiny corpus."""
    root = tmp_path_factory.mktemp("shards")
    params = tiny_params(make_corpus(root / "corpus", 32))
    params["encode-ci"] = {"speeds": SPEEDS, "shard_cuts": SHARD_CUTS}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    for stage in ("prepare-data", "extract-teacher", "fit-quantizer"):
        assert run([stage, *common(root)]) == 0
    return root


def common(root: Path) -> list[str]:
    return ["--params", str(root / "params.yaml"), "--artifacts-dir", str(root)]


def rank_process(root: Path, rank: int) -> Process:
    out = root / "sharded"
    arguments = ["--out", str(out), "--rank", str(rank), "--world-size", str(WORLD_SIZE)]
    return Process(part_path(out, rank, WORLD_SIZE), [*common(root), *arguments])


def finished(processes: list[Process], num_shards: int) -> Iterator[tuple[Process, dict[str, int] | None]]:
    """Run all, some at once; yield each as it ends, the doomed ones with what they had finished."""
    waiting, running = list(processes), []
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            running.append(waiting.pop(0))
            running[-1].start()
        for process in list(running):
            if process.doomed_after is not None and len(process.finished_shards()) >= process.doomed_after:
                running.remove(process)
                yield process, process.kill(num_shards)
            elif process.popen.poll() is not None:
                running.remove(process)
                _, errors = process.popen.communicate()
                assert process.popen.returncode == 0, errors.decode()
                assert process.doomed_after is None, "it ended before it could be killed"
                yield process, None
        time.sleep(0.002)


def payload(artifact: Artifact) -> dict[str, bytes]:
    return {name: (artifact.path / name).read_bytes() for name in artifact.files}


@pytest.mark.slow
def test_three_killed_ranks_of_eight_leave_no_trace(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    num_cuts = load_artifact(root / "data").facts["splits"]["train"] * len(SPEEDS)
    fewest_shards = num_cuts // SHARD_CUTS // WORLD_SIZE
    chance = random.Random(SEED)
    doomed = {rank: chance.randint(1, fewest_shards - 2) for rank in chance.sample(range(WORLD_SIZE), KILLED)}
    with capsys.disabled():
        print(f"\nseed {SEED}: of {fewest_shards} shards or one more a rank, killed after {doomed}")

    firsts = [rank_process(root, rank) for rank in range(WORLD_SIZE)]
    for rank, shards in doomed.items():
        firsts[rank].doomed_after = shards
    one = Process(root / "one", [*common(root), "--out", str(root / "one")])
    left = {process.out: found for process, found in finished([*firsts, one], fewest_shards) if found}
    assert set(left) == {firsts[rank].out for rank in doomed}

    for _ in finished([rank_process(root, rank) for rank in doomed], fewest_shards):
        pass
    for out, shards in left.items():
        kept = {name: (out / name).stat().st_mtime_ns for name in shards}
        assert kept == shards, "finished shards of the killed process are used as they are"

    parts = [str(process.out) for process in chance.sample(firsts, WORLD_SIZE)]
    assert run(["merge-ci", *parts, "--out", str(root / "merged")]) == 0
    merged, single = load_artifact(root / "merged"), load_artifact(root / "one")
    assert merged.id == single.id
    assert payload(merged) == payload(single)
    assert len(merged.files) == num_cuts // SHARD_CUTS + 1
    assert (merged.facts, merged.parents, merged.config) == (single.facts, single.parents, single.config)
    CodebookIndexStore(merged).verify()
    assert not list(root.glob(".*")), "nothing half-written is left"
