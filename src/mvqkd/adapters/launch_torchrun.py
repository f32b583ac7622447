"""Training in several processes of this machine, or of several, under torch's elastic launcher (torchrun)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from mvqkd.adapters.launch_command import stage_arguments, trained, write_params
from mvqkd.adapters.launch_config import LaunchConfig
from mvqkd.adapters.launch_output import PREFIX_TEMPLATE, LauncherOutput
from mvqkd.artifacts import Artifact, content_hash
from mvqkd.config import TrainStudentConfig
from mvqkd.errors import ConfigError, TrainingError
from mvqkd.train.distributed import ranks_of_environment
from mvqkd.train.preemption import StopRequest, TrainingStopped, stopped_at

_LOOPBACK = "127.0.0.1"
# Beyond the ranks' grace: the launcher ends them by force and then itself.
AGENT_GRACE_S = 15


def train_with_torchrun(
    launch: LaunchConfig, config: TrainStudentConfig, inputs: Mapping[str, Path], out: Path
) -> Artifact:
    """Run the ranks of this node until training is over; see ``launch_training``.

    On several nodes each runs this with the same arguments, and ``out`` lies on storage that all of them see.
    """
    if ranks_of_environment().size > 1:
        raise ConfigError(
            "launch.launcher torchrun",
            expected="to start ranks",
            got="the environment of a rank: WORLD_SIZE is set",
            next_step="leave launcher at inprocess where torchrun is the caller, or unset WORLD_SIZE",
        )
    out = out.absolute()
    inputs = {name: path.absolute() for name, path in inputs.items()}
    with tempfile.TemporaryDirectory(prefix="mvqkd-launch-") as scratch:
        params = Path(scratch) / "params.yaml"
        write_params(config, params)
        command = [sys.executable, "-m", "mvqkd.adapters.launch_agent", str(os.getpid())]
        command += elastic_arguments(launch, config, inputs, out)
        # Of stdout the ranks use a line at the end, which the caller prints.
        command += ["--log-dir", f"{scratch}/ranks", "--redirects", "1", "--tee", "2"]
        command += ["-m", "mvqkd", *stage_arguments(params, inputs, out)]
        _run(launch, command)
    return trained(out, config, by="torchrun")


def elastic_arguments(
    launch: LaunchConfig, config: TrainStudentConfig, inputs: Mapping[str, Path], out: Path
) -> list[str]:
    """Arguments of torch's launcher for this node: how many ranks, and where it meets the other nodes.

    Raises:
        ConfigError: there are other nodes, and nothing says where.
    """
    endpoint, address = launch.rdzv_endpoint, launch.local_address
    meeting = {"join_timeout": launch.join_timeout_s, "read_timeout": launch.join_timeout_s}
    node_rank = os.environ.get("PET_NODE_RANK")
    if endpoint is None and launch.num_nodes == 1:
        endpoint, address = f"{_LOOPBACK}:0", address or _LOOPBACK
    elif endpoint is None and "PET_MASTER_ADDR" in os.environ:
        endpoint = f"{os.environ['PET_MASTER_ADDR']}:{os.environ.get('PET_MASTER_PORT', '29500')}"
        # torch guesses by host names and addresses otherwise, and may find nobody.
        if node_rank is not None:
            meeting["is_host"] = int(node_rank == "0")
    elif endpoint is not None and address is not None:
        meeting["is_host"] = int(endpoint.rpartition(":")[0] == address)
    if endpoint is None:
        raise ConfigError(
            "launch.rdzv_endpoint",
            expected=f"HOST:PORT where {launch.num_nodes} nodes meet",
            got="none",
            next_step="name a free port of one node, the same on all of them: --launch-rdzv-endpoint HOST:29400",
        )
    name = launch.rdzv_id or _name_of_meeting(config, inputs, out)
    arguments = ["--nnodes", f"{launch.min_nodes or launch.num_nodes}:{launch.num_nodes}"]
    arguments += ["--nproc-per-node", str(launch.num_processes), "--max-restarts", str(launch.max_restarts)]
    arguments += ["--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-id", name]
    arguments += ["--rdzv-conf", ",".join(f"{key}={value}" for key, value in meeting.items())]
    return arguments + (["--local-addr", address] if address is not None else [])


def _name_of_meeting(config: TrainStudentConfig, inputs: Mapping[str, Path], out: Path) -> str:
    paths = {name: str(path) for name, path in inputs.items()}
    return f"mvqkd-{content_hash([config.model_dump(mode='json'), paths, str(out)])[:12]}"


def _run(launch: LaunchConfig, command: list[str]) -> None:
    """Run the launcher to its end; signals and the time limit end it, and the ranks save their state.

    Raises:
        TrainingStopped, TrainingError, KeyboardInterrupt: it ended otherwise than well.
    """
    environment = {
        **os.environ,
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": PREFIX_TEMPLATE,
        # Read as an option where torch has it; older ones wait for 30 s.
        "PET_SHUTDOWN_TIMEOUT": str(launch.grace_s),
        # A store of its own for every start of the ranks. The shared one keeps the addresses of those of before, and a
        # node that comes back waits in vain to be told where it is (torch 2.13).
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        # Of the launcher, which tells of restarts at this level.
        "LOGLEVEL": "INFO",
        "PYTHONUNBUFFERED": "1",
    }
    output = LauncherOutput()
    end = time.monotonic() + launch.timeout_s if launch.timeout_s else float("inf")
    with StopRequest(signal.SIGTERM, signal.SIGINT) as stop:
        # In a session of its own: a terminal's Ctrl-C would reach it twice, and then it ends without the ranks.
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        assert process.stdout is not None
        reader = threading.Thread(target=output.relay, args=(process.stdout,), daemon=True)
        reader.start()
        try:
            while process.poll() is None and stop.received is None and time.monotonic() < end:
                stop.sleep(0.1)
        finally:
            timed_out = process.poll() is None and stop.received is None
            _end(process, launch.grace_s + AGENT_GRACE_S)
            reader.join(timeout=AGENT_GRACE_S)
    if process.returncode == 0:
        return
    if timed_out:
        raise TrainingError(
            "train-student by torchrun",
            expected=f"an end within {launch.timeout_s:g} s",
            got=_stop_in_words(output.stopped_at_step),
            next_step="run it again to go on from there, with a longer launch.timeout_s",
        )
    if stop.received is signal.SIGINT:
        raise KeyboardInterrupt
    if stop.received is not None:
        if output.stopped_at_step is not None:
            raise stopped_at(output.stopped_at_step)
        raise TrainingStopped(
            "train-student by torchrun",
            expected="training to its end",
            got=f"SIGTERM; {_stop_in_words(None)}",
            next_step="run the same command again to go on",
        )
    who, why = output.failure()
    raise TrainingError(
        f"train-student by torchrun, {who}",
        expected=f"all ranks to train to the end, after {launch.max_restarts} restarts at most",
        got=why,
        next_step="mend it, then run the same command again to go on from the last saved state",
    )


def _end(process: subprocess.Popen[str], within_s: float) -> None:
    """Let a launcher that still runs end its ranks; by force where it does not."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _stop_in_words(step: int | None) -> str:
    if step is None:
        return "ranks here ended without saving; the last state saved on the storage of `out` counts"
    return f"it stopped at step {step}, state saved"
