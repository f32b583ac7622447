"""Training on two hosts: network namespaces with addresses of their own, joined by a cable and by nothing else."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mvqkd.artifacts import Artifact, load_artifact
from mvqkd.config import PrepareDataConfig
from mvqkd.data.prepare import prepare_data
from mvqkd.testing.corpus import make_corpus
from mvqkd.train.state import STATE_FILE
from tests.integration.test_train_distributed import (
    ABSOLUTE_TOLERANCE,
    ONE_THREAD,
    RELATIVE_TOLERANCE,
    TIMEOUT_S,
    arguments,
    history,
    ranks_of,
    wait_for_line,
    wait_for_state,
)

pytestmark = pytest.mark.slow

NUM_HOSTS = 2
# Of training's own packets: gradients of 18 steps, 266 kB each.
LEAST_TRAFFIC_BYTES = 2_000_000


@dataclass(frozen=True)
class Host:
    """A network namespace; ``device`` is its end of the cable."""

    namespace: str
    device: str
    address: str

    def start(self, data: Artifact, out: Path, meeting: str) -> subprocess.Popen[str]:
        """Start this host's part of a training, as a person or a pod would: the same command everywhere."""
        flags = ["--launcher", "torchrun", "--launch-num-nodes", str(NUM_HOSTS), "--launch-rdzv-endpoint", meeting]
        own = ["--launch-local-address", self.address]
        return subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, sys.executable, *arguments(data, out), *flags, *own],
            env={**ONE_THREAD, "GLOO_SOCKET_IFNAME": self.device},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def received_bytes(self) -> int:
        show = ["ip", "netns", "exec", self.namespace, "cat", f"/sys/class/net/{self.device}/statistics/rx_bytes"]
        return int(subprocess.run(show, capture_output=True, text=True, check=True).stdout)


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Host]]:
    if shutil.which("ip") is None:
        pytest.skip("needs the program ip (package iproute2) to make network namespaces")
    mark = os.getpid() % 100_000
    both = [Host(f"mvqkd-{mark}-{n}", f"mvq{mark}-{n}", f"10.231.77.{n + 1}") for n in range(NUM_HOSTS)]
    first, second = both
    try:
        for host in both:
            made = subprocess.run(["ip", "netns", "add", host.namespace], capture_output=True, text=True, check=False)
            if made.returncode != 0:
                pytest.skip(f"network namespaces cannot be made here, which needs root: {made.stderr.strip()}")
        ip("link", "add", first.device, "type", "veth", "peer", "name", second.device)
        for host in both:
            ip("link", "set", host.device, "netns", host.namespace)
            for command in (
                ["addr", "add", f"{host.address}/24", "dev", host.device],
                ["link", "set", host.device, "up"],
                ["link", "set", "lo", "up"],
            ):
                ip("-n", host.namespace, *command)
        yield both
    finally:
        for host in both:
            # Its end of the cable goes with it, and the other end with that.
            subprocess.run(["ip", "netns", "delete", host.namespace], capture_output=True, check=False)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    root = tmp_path_factory.mktemp("hosts")
    config = PrepareDataConfig(source="manifest", manifest=str(make_corpus(root / "corpus", 12)), split_by="prompt")
    return prepare_data(config, out=root / "data")


@contextlib.contextmanager
def started(hosts: list[Host], data: Artifact, out: Path, port: int) -> Iterator[list[subprocess.Popen[str]]]:
    """One launcher a host; whatever is left of them at the end is killed, ranks included."""
    processes = [host.start(data, out, f"{hosts[0].address}:{port}") for host in hosts]
    try:
        yield processes
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        for host in hosts:
            pids = subprocess.run(["ip", "netns", "pids", host.namespace], capture_output=True, text=True, check=True)
            for pid in pids.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)


@pytest.fixture(scope="module")
def undisturbed(hosts: list[Host], data: Artifact) -> Artifact:
    out = data.path.parent / "undisturbed"
    with started(hosts, data, out, 29401) as processes:
        for process in processes:
            output, errors = process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0, errors
            assert output.startswith("train-student: student-checkpoint ")
    return load_artifact(out)


def test_the_hosts_share_a_cable_and_nothing_else(hosts: list[Host], undisturbed: Artifact) -> None:
    assert all(host.received_bytes() > LEAST_TRAFFIC_BYTES for host in hosts)
    for host in hosts:
        shown = subprocess.run(["ip", "-n", host.namespace, "route"], capture_output=True, text=True, check=True)
        assert shown.stdout.split()[0] == "10.231.77.0/24"
        assert len(shown.stdout.splitlines()) == 1, "no way out"


def assert_same_training(artifact: Artifact, undisturbed: Artifact) -> None:
    rows, expected = history(artifact.path), history(undisturbed.path)
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    assert rows[-1] == pytest.approx(expected[-1], rel=RELATIVE_TOLERANCE)
    assert artifact.figures["final_loss"] == pytest.approx(undisturbed.figures["final_loss"], rel=RELATIVE_TOLERANCE)
    weights, others = (load_file(one.path / "student.safetensors") for one in (artifact, undisturbed))
    for name, tensor in others.items():
        torch.testing.assert_close(weights[name], tensor, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE)


def test_a_killed_rank_of_the_other_host_is_restarted_and_the_result_is_the_same(
    hosts: list[Host], data: Artifact, undisturbed: Artifact
) -> None:
    out = data.path.parent / "killed-rank"
    with started(hosts, data, out, 29402) as processes:
        state = wait_for_state(processes[0], out.parent, out.name)
        (rank,) = ranks_of(processes[1].pid)
        os.kill(rank, signal.SIGKILL)
        wait_for_line(processes[1], "a rank ended; all restart from the last state, 3 of 3 left")
        resumed = wait_for_line(processes[0], r"resumed at step (\d+)")
        for process in processes:
            _, errors = process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0, errors
    assert 0 < int(resumed[1]) < undisturbed.figures["num_steps"]
    assert not state.exists()
    assert_same_training(load_artifact(out), undisturbed)


def test_a_lost_host_that_comes_back_is_waited_for(hosts: list[Host], data: Artifact, undisturbed: Artifact) -> None:
    out = data.path.parent / "lost-host"
    with started(hosts, data, out, 29403) as processes:
        wait_for_state(processes[0], out.parent, out.name)
        lost = processes.pop()
        (rank,) = ranks_of(lost.pid)
        (agent,) = (int(text) for text in Path(f"/proc/{lost.pid}/task/{lost.pid}/children").read_text().split())
        for pid in (lost.pid, agent, rank):
            os.kill(pid, signal.SIGKILL)
        lost.communicate()
        wait_for_line(processes[0], "a rank ended; all restart from the last state")
        time.sleep(1)  # the other waits alone
        assert processes[0].poll() is None
        processes.append(hosts[1].start(data, out, f"{hosts[0].address}:29403"))
        for process in processes:
            _, errors = process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0, errors
    assert_same_training(load_artifact(out), undisturbed)


def test_a_host_that_is_to_be_taken_away_lets_all_save_their_state(
    hosts: list[Host], data: Artifact, undisturbed: Artifact
) -> None:
    """SIGTERM comes to one host alone; rank 0, on the other, saves after the step that both end."""
    out = data.path.parent / "taken-away"
    with started(hosts, data, out, 29404) as processes:
        state = wait_for_state(processes[0], out.parent, out.name)
        processes[1].send_signal(signal.SIGTERM)
        _, errors = processes[1].communicate(timeout=TIMEOUT_S)
        assert processes[1].returncode == 143, errors
        stopped = wait_for_line(processes[0], r"stopped at step (\d+)")
        assert torch.load(state, weights_only=True)["state"]["step"] == int(stopped[1])
        processes[1] = hosts[1].start(data, out, f"{hosts[0].address}:29404")
        resumed = wait_for_line(processes[0], r"resumed at step (\d+)")
        assert resumed[1] == stopped[1]
        for process in processes:
            _, errors = process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0, errors
    assert_same_training(load_artifact(out), undisturbed)
    assert not list(out.parent.glob(f".{out.name}.partial-*/{STATE_FILE}"))
    assert re.search("run the same command again", errors) is None
