"""Podman for the tests of the images: found, tried out, called with the restrictions that the images live under."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

IMAGES = {"cpu": "localhost/mvqkd:test", "serve": "localhost/mvqkd:test-serve"}
UID = 10001
# What a careful cluster allows: docs/containers.md promises that the images need no more.
RESTRICTIONS = (
    *("--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp:rw,noexec,nosuid,nodev,size=1g"),
    *("--cap-drop=ALL", "--security-opt=no-new-privileges"),
)
_OWN_SETTINGS = Path(__file__).with_name("containers.conf")


class EngineError(Exception):
    """No container can be started here; the message says why and what to do."""


@dataclass(frozen=True)
class Engine:
    """Podman with settings under which it starts containers on this machine."""

    environment: Mapping[str, str]

    def call(self, *arguments: str, check: bool = True, timeout_s: float = 1200) -> subprocess.CompletedProcess[str]:
        """Call podman; EngineError when it fails and ``check`` is set."""
        done = subprocess.run(
            ["podman", *arguments],
            env=dict(self.environment),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        if check and done.returncode:
            raise EngineError(f"podman {' '.join(arguments)}: exit status {done.returncode}\n{done.stderr[-4000:]}")
        return done

    def has_image(self, image: str) -> bool:
        return self.call("image", "exists", image, check=False).returncode == 0

    def _options(
        self, entrypoint: str | None, network: str, volumes: Sequence[str], environment: Mapping[str, str] | None
    ) -> list[str]:
        """Options of ``podman run``: the restrictions, and what a test adds."""
        given = {"OMP_NUM_THREADS": "1"} | dict(environment or {})
        return [
            *RESTRICTIONS,
            f"--network={network}",
            *([] if entrypoint is None else [f"--entrypoint={entrypoint}"]),
            *(f"--userns={mapping}" for mapping in self.user_mapping),
            *(f"--volume={volume}" for volume in volumes),
            *(f"--env={name}={value}" for name, value in given.items()),
        ]

    @property
    def user_mapping(self) -> list[str]:
        """How files of the user who runs the tests appear in a container, where that user is not root."""
        return [] if os.geteuid() == 0 else [f"keep-id:uid={UID},gid={UID}"]

    def run(
        self,
        image: str,
        *command: str,
        entrypoint: str | None = None,
        network: str = "none",
        volumes: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a new container under the restrictions; never raises for its status.

        Args:
            network: ``container:ID`` shares another container's, which has loopback alone.
        """
        options = self._options(entrypoint, network, volumes, environment)
        return self.call("run", "--rm", "--no-healthcheck", *options, image, *command, check=False)

    @contextmanager
    def background(
        self,
        image: str,
        *command: str,
        entrypoint: str | None = None,
        network: str = "none",
        volumes: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Iterator[str]:
        """A container that runs beside the test; gives its id, and removes it at the end."""
        options = self._options(entrypoint, network, volumes, environment)
        container = self.call("run", "--detach", *options, image, *command).stdout.strip()
        try:
            yield container
        finally:
            self.call("rm", "--force", "--time=0", container)

    @contextmanager
    def service(self, folder: Path) -> Iterator[str]:
        """Docker's API, spoken by podman, on a socket in ``folder``; gives its address for DOCKER_HOST."""
        socket = folder / "podman.sock"
        address = f"unix://{socket}"
        with (folder / "service.log").open("wb") as log:
            process = subprocess.Popen(
                ["podman", "system", "service", "--time=0", address],
                env=dict(self.environment),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                deadline = time.monotonic() + 30
                while not socket.is_socket():
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise EngineError(f"podman system service: {(folder / 'service.log').read_text()}")
                    time.sleep(0.1)
                yield address
            finally:
                process.terminate()
                process.wait(30)


def writable_folder(folder: Path) -> Path:
    """Create a folder, or take one with all that is in it, that the image's user may write to."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, UID, UID)
    return folder


def readable_folder(folder: Path) -> Path:
    """Let the image's user read a folder; those that pytest makes are for their owner alone."""
    folder.chmod(0o755)
    return folder


def find_engine(image: str) -> Engine:
    """Podman with this machine's settings or, where a container of ``image`` does not start with them, with ours.

    Raises:
        EngineError: there is no podman, or no such image, or no container starts.
    """
    if shutil.which("podman") is None:
        raise EngineError("podman is not installed; apt-get install podman runc")
    if not Engine(os.environ).has_image(image):
        raise EngineError(f"there is no image {image}; make test-containers builds it")
    problems = []
    for settings in ({}, {"CONTAINERS_CONF": str(_OWN_SETTINGS)}):
        engine = Engine({**os.environ, **settings})
        tried = engine.run(image, "-c", ":", entrypoint="/bin/sh")
        if tried.returncode == 0:
            return engine
        problems.append(tried.stderr.strip())
    raise EngineError("podman starts no container; runc may be missing: apt-get install runc\n" + "\n".join(problems))
