"""Training as a TrainJob of Kubeflow Trainer: posted, watched to its end, its artifact taken from shared storage.

The job's name follows from what is trained, so that a launcher that is started again, a pod that was rescheduled,
adopts the job that runs already. A job that failed is replaced and goes on from the state on the shared storage.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from mvqkd.adapters.launch_command import has_arrived, trained, write_params
from mvqkd.adapters.launch_config import LaunchConfig
from mvqkd.adapters.launch_storage import copy_artifact, stage_artifact
from mvqkd.adapters.trainjob_api import TrainJobApi
from mvqkd.adapters.trainjob_spec import TrainJob, describe
from mvqkd.adapters.trainjob_watch import TrainJobWatch, state_of
from mvqkd.artifacts import Artifact
from mvqkd.config import TrainStudentConfig
from mvqkd.errors import ConfigError, MvqkdError, TrainingError
from mvqkd.train.preemption import StopRequest, TrainingStopped

_LOG = logging.getLogger("mvqkd.launch")


def train_with_trainjob(
    launch: LaunchConfig, config: TrainStudentConfig, inputs: Mapping[str, Path], out: Path
) -> Artifact:
    """Let a cluster train and give the artifact at ``out``; see ``launch_training``.

    The shared storage must be the same storage at the same path here and in the job's pods.
    """
    shared = launch.shared_path
    if not shared.is_dir():
        raise ConfigError(
            "launch.shared_dir",
            expected="a directory that this machine and the job's pods share",
            got=f"no directory {shared} here",
            next_step="mount the claim of the training runtime here, too, or set --launch-shared-dir",
        )
    with StopRequest(signal.SIGTERM, signal.SIGINT) as stop:
        api = TrainJobApi(launch.namespace, launch.patience_s, stop)
        job = describe(launch, config, {name: stage_artifact(path, shared, stop) for name, path in inputs.items()})
        write_params(config, job.place.params)
        if job.place.is_done:
            _LOG.info("trainjob %s: its artifact is on the shared storage already", job.name)
        else:
            _Launcher(launch, api, job, stop).run()
        artifact = copy_artifact(trained(job.place.out, config, by=f"trainjob {launch.namespace}/{job.name}"), out)
        if launch.delete_job == "always":
            api.delete(job.name)
        return artifact


class _Launcher:
    """Brings one TrainJob to its end."""

    def __init__(self, launch: LaunchConfig, api: TrainJobApi, job: TrainJob, stop: StopRequest) -> None:
        self._launch, self._api, self._job, self._stop = launch, api, job, stop
        self._subject = f"trainjob {launch.namespace}/{job.name}"
        self._end = time.monotonic() + launch.timeout_s if launch.timeout_s else float("inf")

    def run(self) -> None:
        """Post or adopt the job and watch it until it is complete.

        Raises:
            TrainingError: it failed, is gone, was refused, or took longer than ``timeout_s``.
            TrainingStopped, KeyboardInterrupt: this process was told to stop.
        """
        try:
            self._require_time("its start")
            self._post_or_adopt()
            self._watch()
        except MvqkdError:
            if self._stop.received is None:
                raise
            ended = self._deleted()
            if self._stop.received is signal.SIGINT:
                raise KeyboardInterrupt from None
            raise TrainingStopped(
                self._subject,
                expected="to watch it to its end",
                got=f"SIGTERM; {ended}",
                next_step="run the same command again to go on",
            ) from None

    def _post_or_adopt(self) -> None:
        name = self._job.name
        while not self._api.create(self._job.manifest):
            found = self._api.get(name)
            if found is None or found["metadata"].get("deletionTimestamp"):
                self._wait("the job of before to be gone")
            elif state_of(found).phase == "complete" and has_arrived(self._job.place.out):
                return
            elif state_of(found).phase in ("failed", "complete"):
                _LOG.info("%s: ended before; replaced, goes on from its last state", self._subject)
                self._api.delete(name)
            elif not self._job.is_specified_as(found):
                raise TrainingError(
                    self._subject,
                    expected="no job, or one that asks for the same",
                    got="one that runs with other nodes, resources or settings of launch",
                    next_step=f"launch with its settings to adopt it, or `kubectl -n {self._launch.namespace} delete "
                    f"trainjob {name}`: the next goes on from its state",
                )
            else:
                _LOG.info("%s: runs already, adopted", self._subject)
                return
        _LOG.info("%s: posted", self._subject)

    def _watch(self) -> None:
        watch = TrainJobWatch(self._api, self._job.name)
        while True:
            job = self._api.get(self._job.name)
            if job is None:
                raise TrainingError(
                    self._subject,
                    expected="a job that runs",
                    got="none: somebody has deleted it",
                    next_step="run the same command again to go on from its last state",
                )
            state = watch.look(job)
            if state.phase == "complete":
                return
            if state.phase == "failed":
                raise self._failure(state.detail, watch.last_words)
            self._wait("its end")

    def _failure(self, detail: str, last_words: str) -> TrainingError:
        if self._launch.delete_job == "always":
            self._api.delete(self._job.name)
        memory = "OOMKilled" in last_words
        return TrainingError(
            self._subject,
            expected="a complete training",
            got=f"Failed ({detail}); {last_words or 'no log'}",
            next_step=f"{'raise launch.memory or lower train-student.batch_duration_s' if memory else 'mend it'}, then "
            "run the same command again to go on from the last saved state",
        )

    def _wait(self, what: str) -> None:
        """Pause until the next look; ``_require_time`` then."""
        self._stop.sleep(self._launch.poll_s)
        self._require_time(what)

    def _require_time(self, what: str) -> None:
        """Go on only while there is time.

        Raises:
            TrainingError: there is none, or this process was told to stop.
        """
        if self._stop.received is not None or time.monotonic() > self._end:
            raise TrainingError(
                self._subject,
                expected=f"{what} within {self._launch.timeout_s:g} s",
                got="none" if self._stop.received is not None else f"none; {self._deleted()}",
                next_step="run the same command again to go on, with a longer launch.timeout_s",
            )

    def _deleted(self) -> str:
        """Delete the job if that is wanted; what has become of it, in words."""
        kept = f"the job runs on; `kubectl -n {self._launch.namespace} delete trainjob {self._job.name}` ends it"
        if self._launch.delete_job == "never":
            return kept
        try:
            found = self._api.get(self._job.name)
            if found is None or not self._job.is_specified_as(found):
                return "no job of ours was there"
            self._api.delete(self._job.name, in_a_hurry=True)
        except MvqkdError as error:
            _LOG.warning("%s", error)
            return kept
        return "the job is deleted, its ranks save their state"
