"""What the launcher asks of a cluster: TrainJobs of one namespace, their pods, logs and events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mvqkd.adapters.trainjob_client import Refusal, call, connect
from mvqkd.train.preemption import StopRequest

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
# JobSet, to which Kubeflow Trainer turns a TrainJob, marks its pods with it.
JOB_LABEL = "jobset.sigs.k8s.io/jobset-name"
# A stopped launcher has little time left.
_CLEARING_S = 10.0


class TrainJobApi:
    """Calls about the TrainJobs of one namespace; each repeats while the server is away.

    Args:
        patience_s: how long.
        stop: ends the repetitions.
    Raises:
        MissingDependencyError, ConfigError: see ``mvqkd.adapters.trainjob_client.connect``.
    """

    def __init__(self, namespace: str, patience_s: float, stop: StopRequest) -> None:
        self._client = connect()
        from kubernetes.client import CoreV1Api, CustomObjectsApi

        self.namespace, self._patience_s, self._stop = namespace, patience_s, stop
        self._jobs, self._core = CustomObjectsApi(self._client), CoreV1Api(self._client)
        self._address = (GROUP, VERSION, namespace, PLURAL)
        permission = (
            f"let this account create, get and delete {PLURAL}.{GROUP}, list pods and events and get pods/log in "
            f"{namespace}, as infra/ does for mvqkd-pipeline"
        )
        self._next_steps = {
            403: permission,
            404: f"install Kubeflow Trainer ({PLURAL}.{GROUP}/{VERSION}) and create the namespace {namespace}",
        }

    def create(self, manifest: Mapping[str, Any]) -> bool:
        """Post a TrainJob; False where one of this name exists, perhaps by a call whose answer got lost."""
        name = manifest["metadata"]["name"]
        try:
            self._call("create", name, self._jobs.create_namespaced_custom_object, *self._address, dict(manifest))
        except Refusal as refusal:
            if refusal.status == 409:
                return False
            raise refusal.as_error(self._subject("create", name), self._next_steps) from refusal
        return True

    def get(self, name: str) -> dict[str, Any] | None:
        """The TrainJob; None where there is none."""
        try:
            job: dict[str, Any] = self._call("get", name, self._jobs.get_namespaced_custom_object, *self._address, name)
        except Refusal as refusal:
            if refusal.status == 404:
                return None
            raise refusal.as_error(self._subject("get", name), self._next_steps) from refusal
        return job

    def delete(self, name: str, *, in_a_hurry: bool = False) -> None:
        """Delete the TrainJob and its pods, which get SIGTERM; nothing happens where there is none.

        Args:
            in_a_hurry: repeat for some seconds only, also after the stop.
        """
        function, subject = self._jobs.delete_namespaced_custom_object, self._subject("delete", name)
        patience_s, stop = (_CLEARING_S, None) if in_a_hurry else (self._patience_s, self._stop)
        body = {"propagationPolicy": "Foreground"}
        try:
            call(subject, function, patience_s, stop, *self._address, name, body=body)
        except Refusal as refusal:
            if refusal.status != 404:
                raise refusal.as_error(subject, self._next_steps) from refusal

    def pods(self, name: str) -> list[dict[str, Any]]:
        """Pods of the TrainJob."""
        return self._list("pods", name, ("labelSelector", f"{JOB_LABEL}={name}"))

    def warnings(self, name: str) -> list[dict[str, Any]]:
        """Events of type Warning about the TrainJob and whatever was made from it."""
        events = self._list("events", name, ("fieldSelector", "type=Warning"))
        return [event for event in events if _belongs_to(event.get("involvedObject", {}).get("name", ""), name)]

    def log(self, pod: str, since_s: int) -> str:
        """Lines that a pod has written in the last seconds, each behind its time; "" where it has not begun."""
        function = self._core.read_namespaced_pod_log
        try:
            text: str = self._call(
                "read the log of", pod, function, pod, self.namespace, timestamps=True, since_seconds=since_s
            )
        except Refusal as refusal:
            if refusal.status in (400, 404):  # its container waits, or the pod has gone
                return ""
            raise refusal.as_error(self._subject("read the log of", pod), self._next_steps) from refusal
        return text

    def _list(self, plural: str, name: str, selector: tuple[str, str]) -> list[dict[str, Any]]:
        # Not by the client's typed methods: their models refuse events and pods whose fields are not all set.
        doing = f"list the {plural} of"
        arguments = ("/api/v1/namespaces/{namespace}/" + plural, "GET", {"namespace": self.namespace}, [selector])
        options = {
            "header_params": {"Accept": "application/json"},
            "auth_settings": ["BearerToken"],
            "response_type": "object",
            "_return_http_data_only": True,
        }
        try:
            found = self._call(doing, name, self._client.call_api, *arguments, **options)
        except Refusal as refusal:
            raise refusal.as_error(self._subject(doing, name), self._next_steps) from refusal
        items: list[dict[str, Any]] = found["items"]
        return items

    def _call(self, doing: str, name: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return call(self._subject(doing, name), function, self._patience_s, self._stop, *arguments, **named)

    def _subject(self, doing: str, name: str) -> str:
        return f"Kubernetes API, to {doing} {self.namespace}/{name}"


def _belongs_to(object_name: str, job: str) -> bool:
    return object_name == job or object_name.startswith(f"{job}-")
