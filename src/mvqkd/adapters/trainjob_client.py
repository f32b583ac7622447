"""Calls to the Kubernetes API: patient with a server that is away, clear about one that refuses."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mvqkd.errors import ConfigError, MissingDependencyError, TrainingError
from mvqkd.train.preemption import StopRequest

# Connect, read. The client takes whole numbers or pairs only.
_TIMEOUTS_S = (10, 30)
_TRANSIENT = (429, 500, 502, 503, 504)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
T = TypeVar("T")


class Refusal(Exception):
    """An answer of the API server that repeating the call would not change."""

    def __init__(self, error: Any) -> None:
        self.status: int = error.status or 0
        self.message = f"{self.status} {_message_of(error)}"
        given = str((error.headers or {}).get("Retry-After", ""))
        self.retry_after_s = min(_LONGEST_PAUSE_S, float(given)) if given.isdigit() else 0.0
        super().__init__(self.message)

    def as_error(self, subject: str, next_steps: dict[int, str]) -> TrainingError:
        """It as an error for the user.

        Args:
            subject: the call and its object.
            next_steps: what to do, by status.
        """
        if self.status == 401:
            step = "log in again: the kubeconfig's credentials or the service account's token are not accepted"
        elif "admission webhook" in self.message or self.status in (400, 422):
            step = (
                "mend the field of section launch that it names; `kubectl get clustertrainingruntimes` lists runtimes"
            )
        else:
            step = next_steps.get(self.status, "look at the server's own log")
        return TrainingError(subject, expected="the request to be accepted", got=self.message, next_step=step)


def connect() -> Any:
    """``kubernetes.client.ApiClient`` for the cluster that KUBECONFIG names, or the pod's own.

    Raises:
        MissingDependencyError: the Kubernetes client is not installed.
        ConfigError: no cluster is configured.
    """
    try:
        import kubernetes
        from kubernetes.config.config_exception import ConfigException
    except ImportError as error:
        raise MissingDependencyError(
            "launch.launcher trainjob",
            expected="the package kubernetes",
            got="it is not installed",
            next_step="pip install 'mvqkd[kfp]'",
        ) from error
    configuration = kubernetes.client.Configuration()
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
            kubernetes.config.load_incluster_config(configuration)
        else:
            # Named here: the package reads the variable once, when it is imported.
            file = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
            kubernetes.config.load_kube_config(file, client_configuration=configuration)
    except ConfigException as error:
        raise ConfigError(
            "launch.launcher trainjob",
            expected="a cluster, named by KUBECONFIG or by a pod's service account",
            got=str(error),
            next_step="set KUBECONFIG, or run this in a pod whose service account token is mounted",
        ) from error
    configuration.retries = False  # repeated below, and only what is worth it
    return kubernetes.client.ApiClient(configuration)


def call(
    subject: str, function: Callable[..., T], patience_s: float, stop: StopRequest | None, *arguments: Any, **named: Any
) -> T:
    """Call the server, again while it is away, overloaded or faulty.

    Args:
        subject: the call and its object, for messages.
        function: a method of an API of the Kubernetes client.
        patience_s: how long it may be repeated.
        stop: ends the repetitions.
    Raises:
        Refusal: the server's answer is no.
        TrainingError: it stayed away.
    """
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    end, pause_s = time.monotonic() + patience_s, _FIRST_PAUSE_S
    while True:
        try:
            return function(*arguments, **named, _request_timeout=_TIMEOUTS_S)
        except ApiException as error:
            refusal = Refusal(error)
            if refusal.status not in _TRANSIENT:
                raise refusal from error
            fault, pause_s = refusal.message, max(pause_s, refusal.retry_after_s)
        except (HTTPError, OSError) as error:
            fault = f"{type(error).__name__}: {error}"
        if time.monotonic() + pause_s > end or (stop is not None and stop.received is not None):
            raise TrainingError(
                subject,
                expected=f"an answer within {patience_s:g} s",
                got=fault,
                next_step="run the same command again when the server is back: a job that runs is adopted",
            )
        time.sleep(pause_s) if stop is None else stop.sleep(pause_s)
        pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)


def _message_of(error: Any) -> str:
    """What the server says; its answers are objects of kind Status, but for those of proxies."""
    try:
        return str(json.loads(error.body)["message"])
    except (ValueError, TypeError, KeyError):
        return str(error.reason or error.body or "no word").strip()
