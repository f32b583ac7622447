"""A stand-in for the API server of Kubeflow Pipelines 2.17 on loopback: its v2beta1 paths, fields, checks and errors.

What it stores and refuses follows the server's source: JSON field names, unknown fields refused, filters and page
tokens checked, gRPC codes in error bodies (and none from uploads), pipelines stored as protobuf writes them, times of
whole seconds. It runs nothing: tests move runs along with ``set_run``. ``tests.kfp_http`` serves it.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import kfp_server_api
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

PREFIX = "/apis/v2beta1"
INVALID, NOT_FOUND, EXISTS, DENIED, INTERNAL, UNAUTHENTICATED = 3, 5, 6, 7, 13, 16
STATUS = {INVALID: 400, NOT_FOUND: 404, EXISTS: 409, DENIED: 403, INTERNAL: 500, UNAUTHENTICATED: 401}
_MAX_PAGE = 200
# No two things are made in the same second: their order is then certain.
_BEGINNING = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass
class Request:
    """What came in."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Fault:
    """What to do to some of the next requests instead of answering them.

    Args:
        method, path: which requests; the path without the prefix, as a regular expression for all of it.
        status, body, headers: the answer.
        delay_s: silence before it.
        carried_out: do what was asked, and only then fail: the answer was lost on its way.
    """

    method: str
    path: str
    times: int = 1
    status: int = 500
    body: str = json.dumps({"code": INTERNAL, "message": "broken", "details": []})
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    delay_s: float = 0.0
    carried_out: bool = False


class KfpServer:
    """The server's memory. ``requests`` holds everything that was asked, in order."""

    def __init__(self, *, multi_user: bool = False, token: str | None = None, cookie: str | None = None) -> None:
        self.multi_user = multi_user
        self.token = token
        self.cookie = cookie
        self.url = ""
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.experiments: dict[str, dict[str, Any]] = {}
        self.pipelines: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.recurring: dict[str, dict[str, Any]] = {}
        self.propagation: dict[str, str] = {}
        self.enabled_together = 0
        self._lock = threading.Lock()
        self._made = 0

    def asked(self, method: str, path: str) -> list[Request]:
        """Requests of that method and path (a regular expression, without the prefix)."""
        wanted = re.compile(PREFIX + path)
        return [item for item in self.requests if item.method == method and wanted.fullmatch(item.path)]

    def writes(self) -> list[str]:
        """Everything that was asked and may change something: ``POST /runs``."""
        return [f"{item.method} {item.path.removeprefix(PREFIX)}" for item in self.requests if item.method != "GET"]

    def set_run(self, run_id: str, **changes: Any) -> None:
        """Change fields of a run."""
        self.runs[run_id] |= changes

    def answer(self, request: Request) -> Any:
        """The body of the answer.

        Raises:
            Refusal: an error.
        """
        with self._lock:
            if request.path != f"{PREFIX}/healthz":  # which anybody may ask for
                self._authenticate(request)
            for method, pattern, function in _ROUTES:
                matched = re.fullmatch(PREFIX + pattern, request.path)
                if matched and method == request.method:
                    answer = function(self, request, *matched.groups())
                    enabled = [item for item in self.recurring.values() if item["status"] == "ENABLED"]
                    self.enabled_together = max(self.enabled_together, len(enabled))
                    return answer
        raise Refusal(NOT_FOUND, "Not Found")

    def _authenticate(self, request: Request) -> None:
        if self.token is not None and request.headers.get("authorization") != f"Bearer {self.token}":
            raise Refusal(UNAUTHENTICATED, "Request header error: there is no user identity header.")
        if self.cookie is not None and request.headers.get("cookie") != self.cookie:
            raise Refusal(UNAUTHENTICATED, "Request header error: there is no user identity header.")

    def _made_at(self) -> str:
        self._made += 1
        return (_BEGINNING + timedelta(seconds=self._made)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _namespace(self, given: str | None) -> str:
        if not self.multi_user and given:
            raise Refusal(INVALID, "In single-user mode, the namespace must be empty")
        if self.multi_user and not given:
            raise Refusal(INVALID, "Namespace is required in multi-user mode")
        return given or ""

    # -- what is asked for -------------------------------------------------------------------------------------------

    def health(self, request: Request) -> Any:
        return {
            "commit_sha": "unknown",
            "tag_name": "2.17.0",
            "multi_user": self.multi_user,
            "pipeline_store": "database",
        }

    def list_experiments(self, request: Request) -> Any:
        namespace = self._namespace(request.query.get("namespace"))
        found = [item for item in self.experiments.values() if item.get("namespace", "") == namespace]
        return _page(found, request, "experiments", {"experiment_id", "display_name", "created_at", "storage_state"})

    def create_experiment(self, request: Request) -> Any:
        body = _known(request.body, kfp_server_api.V2beta1Experiment)
        namespace = self._namespace(body.get("namespace"))
        for item in self.experiments.values():
            if (item["display_name"], item.get("namespace", "")) == (body["display_name"], namespace):
                name = body["display_name"]
                message = (
                    f"Failed to create a new experiment. The name {name} already exists. Please specify a new name"
                )
                raise Refusal(EXISTS, message)
        made = {**body, "experiment_id": str(uuid.uuid4()), "created_at": self._made_at(), "storage_state": "AVAILABLE"}
        self.experiments[made["experiment_id"]] = made
        return made

    def pipeline_by_name(self, request: Request, name: str) -> Any:
        namespace = self._namespace(request.query.get("namespace"))
        for item in self.pipelines.values():
            if (item["name"], item.get("namespace", "")) == (name, namespace):
                return item
        raise Refusal(NOT_FOUND, f"Pipeline {name} not found")

    def create_pipeline(self, request: Request) -> Any:
        body = _known(request.body, kfp_server_api.V2beta1Pipeline)
        namespace = self._namespace(body.get("namespace"))
        if not body.get("name"):
            raise Refusal(INVALID, "name is required")
        if any((i["name"], i.get("namespace", "")) == (body["name"], namespace) for i in self.pipelines.values()):
            message = (
                f"Failed to create a new pipeline. The name {body['name']} already exist. Please specify a new name"
            )
            raise Refusal(EXISTS, message)
        made = {"display_name": body["name"], **body, "pipeline_id": str(uuid.uuid4()), "created_at": self._made_at()}
        self.pipelines[made["pipeline_id"]] = made
        return made

    def upload_version(self, request: Request) -> Any:
        name, file = request.body
        if not name.endswith((".yaml", ".yml")):
            raise UploadRefusal(400, "Failed to create a pipeline version")
        pipeline_id = request.query.get("pipelineid", "")
        if pipeline_id not in self.pipelines:
            raise UploadRefusal(400, "Failed to create a pipeline version")
        version_name = request.query["name"]
        if any((i["pipeline_id"], i["name"]) == (pipeline_id, version_name) for i in self.versions.values()):
            raise UploadRefusal(409, "Failed to create a pipeline version")
        made = {
            "pipeline_id": pipeline_id,
            "pipeline_version_id": str(uuid.uuid4()),
            "name": version_name,
            "display_name": request.query.get("display_name", version_name),
            "created_at": self._made_at(),
            "pipeline_spec": stored(file.decode()),
        }
        self.versions[made["pipeline_version_id"]] = made
        return made

    def list_versions(self, request: Request, pipeline_id: str) -> Any:
        found = [item for item in self.versions.values() if item["pipeline_id"] == pipeline_id]
        return _page(found, request, "pipeline_versions", {"pipeline_version_id", "name", "display_name", "created_at"})

    def version(self, request: Request, pipeline_id: str, version_id: str) -> Any:
        found = self.versions.get(version_id)
        if found is None or found["pipeline_id"] != pipeline_id:
            raise Refusal(NOT_FOUND, f"PipelineVersion {version_id} not found")
        return found

    def list_runs(self, request: Request) -> Any:
        if experiment := request.query.get("experiment_id"):
            found = [item for item in self.runs.values() if item["experiment_id"] == experiment]
        else:
            self._namespace(request.query.get("namespace"))
            found = list(self.runs.values())
        return _page(found, request, "runs", {"run_id", "display_name", "created_at", "state", "storage_state"})

    def run(self, request: Request, run_id: str) -> Any:
        if run_id not in self.runs:
            raise Refusal(NOT_FOUND, f"Run {run_id} not found")
        return self.runs[run_id]

    def create_run(self, request: Request) -> Any:
        body = _known(request.body, kfp_server_api.V2beta1Run)
        if not body.get("display_name"):
            raise Refusal(INVALID, "The run name is empty. Please specify a valid name")
        self._check_experiment_and_arguments(body)
        made = {
            **body,
            "run_id": str(uuid.uuid4()),
            "created_at": self._made_at(),
            "finished_at": "1970-01-01T00:00:00Z",
            "state": "PENDING",
            "storage_state": "AVAILABLE",
            "service_account": body.get("service_account", "pipeline-runner"),
        }
        self.runs[made["run_id"]] = made
        return made

    def list_recurring(self, request: Request) -> Any:
        self._namespace(request.query.get("namespace"))
        fields = {"recurring_run_id", "display_name", "created_at"}
        return _page(list(self.recurring.values()), request, "recurringRuns", fields)

    def create_recurring(self, request: Request) -> Any:
        body = _known(request.body, kfp_server_api.V2beta1RecurringRun)
        self._check_experiment_and_arguments(body)
        if not 1 <= int(body.get("max_concurrency", 0)) <= 10:
            raise Refusal(INVALID, "Max concurrency of a recurring run must be at least 1 and at most 10")
        # What robfig/cron 1.2 takes: the sixth field may be left out, so that five fields mean something else.
        if not 5 <= len(body["trigger"]["cron_schedule"]["cron"].split()) <= 6:
            raise Refusal(INVALID, "Schedule cron is not a supported format. Error: Expected 5 to 6 fields")
        made = {
            **body,
            "recurring_run_id": str(uuid.uuid4()),
            "created_at": self._made_at(),
            "max_concurrency": str(body["max_concurrency"]),
            "status": "ENABLED" if body.get("mode") == "ENABLE" else "DISABLED",
            "service_account": body.get("service_account", "pipeline-runner"),
        }
        self.recurring[made["recurring_run_id"]] = made
        return made

    def switch_recurring(self, request: Request, identity: str, switch: str) -> Any:
        if identity not in self.recurring:
            raise Refusal(NOT_FOUND, f"Job {identity} not found")
        changed = {"enable": ("ENABLED", "ENABLE"), "disable": ("DISABLED", "DISABLE")}[switch]
        self.recurring[identity] |= dict(zip(("status", "mode"), changed, strict=True))
        return {}

    def delete_recurring(self, request: Request, identity: str) -> Any:
        if identity not in self.recurring:
            raise Refusal(NOT_FOUND, f"Job {identity} not found")
        self.propagation[identity] = request.query.get("propagation_policy", "BACKGROUND")
        del self.recurring[identity]
        return {}

    def _check_experiment_and_arguments(self, body: Mapping[str, Any]) -> None:
        if body.get("experiment_id") not in self.experiments:
            raise Refusal(NOT_FOUND, f"Experiment {body.get('experiment_id')} not found")
        reference = body["pipeline_version_reference"]
        spec = self.versions[reference["pipeline_version_id"]]["pipeline_spec"]
        spec = spec.get("pipeline_spec", spec)
        known = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        given = body.get("runtime_config", {}).get("parameters", {})
        if extra := sorted(set(given) - set(known)):
            raise Refusal(INVALID, f"parameter(s) provided are not required by pipeline: {', '.join(extra)}")
        for name, wanted in known.items():
            if name not in given:
                if "defaultValue" not in wanted and not wanted.get("isOptional"):
                    message = f"parameter {name} is not optional, yet has neither default value nor user provided value"
                    raise Refusal(INVALID, message)
            elif type(given[name]) not in _TYPES[wanted["parameterType"]]:
                kind = wanted["parameterType"].lower()
                message = (
                    f"input parameter {name} requires type {kind}, but the input parameter is not of {kind} value type"
                )
                raise Refusal(INVALID, message)


class UploadRefusal(Exception):
    """An error of the upload endpoints, which write their own kind."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


_TYPES: dict[str, tuple[type, ...]] = {
    "STRING": (str,),
    "NUMBER_INTEGER": (int, float),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": (bool,),
    "LIST": (list,),
    "STRUCT": (dict,),
}
_ROUTES: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("GET", "/healthz", KfpServer.health),
    ("GET", "/experiments", KfpServer.list_experiments),
    ("POST", "/experiments", KfpServer.create_experiment),
    ("GET", "/pipelines/names/([^/]+)", KfpServer.pipeline_by_name),
    ("POST", "/pipelines", KfpServer.create_pipeline),
    ("POST", "/pipelines/upload_version", KfpServer.upload_version),
    ("GET", "/pipelines/([^/]+)/versions", KfpServer.list_versions),
    ("GET", "/pipelines/([^/]+)/versions/([^/]+)", KfpServer.version),
    ("GET", "/runs", KfpServer.list_runs),
    ("POST", "/runs", KfpServer.create_run),
    ("GET", "/runs/([^/:]+)", KfpServer.run),
    ("GET", "/recurringruns", KfpServer.list_recurring),
    ("POST", "/recurringruns", KfpServer.create_recurring),
    ("POST", "/recurringruns/([^/:]+):(enable|disable)", KfpServer.switch_recurring),
    ("DELETE", "/recurringruns/([^/:]+)", KfpServer.delete_recurring),
)


def stored(text: str) -> dict[str, Any]:
    """A pipeline as the server gives it back: parsed, and written again by protobuf."""
    specification: dict[str, Any] = {}
    platforms: dict[str, Any] = {}
    for part in text.split("\n---\n"):
        document = yaml.load(part, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if "platforms" in document:
            platforms = json_format.MessageToDict(json_format.ParseDict(document, pipeline_spec_pb2.PlatformSpec()))
        else:
            message = json_format.ParseDict(document, pipeline_spec_pb2.PipelineSpec())
            specification = json_format.MessageToDict(message)
    return {"pipeline_spec": specification, "platform_spec": platforms} if platforms else specification


def _known(body: Any, model: Any) -> dict[str, Any]:
    """The body, refused where it has a field that the message does not have."""
    for name in body or {}:
        if name not in model.attribute_map.values():
            raise Refusal(INVALID, f'proto: (line 1:2): unknown field "{name}"')
    return dict(body)


def _page(items: list[dict[str, Any]], request: Request, name: str, fields: set[str]) -> Any:
    """One page of a list: filtered, sorted, and with a token where more follow."""
    query = request.query
    filter_text, sort_by = query.get("filter", ""), query.get("sort_by", "")
    start = 0
    if token := query.get("page_token"):
        start, *rest = json.loads(base64.b64decode(token))
        if rest != [filter_text, sort_by]:
            raise Refusal(INVALID, "page token does not match the supplied sort by and/or filtering criteria.")
    for predicate in json.loads(filter_text)["predicates"] if filter_text else []:
        if predicate["operation"] != "EQUALS":
            raise Refusal(INVALID, "this stand-in knows EQUALS only")
        if predicate["key"] not in fields:
            raise Refusal(INVALID, f'no support for filtering on unrecognized field "{predicate["key"]}"')
        items = [item for item in items if item.get(predicate["key"]) == predicate["string_value"]]
    by, _, order = (sort_by or "created_at").partition(" ")
    if by not in fields:
        raise Refusal(INVALID, f'Invalid sorting field: "{by}"')
    items = sorted(items, key=lambda item: str(item[by]), reverse=order == "desc")
    size = min(int(query.get("page_size") or 20), _MAX_PAGE)
    page = items[start : start + size]
    # Empty fields are left out, as everywhere in the API.
    answer: dict[str, Any] = {name: page} if page else {}
    if items:
        answer["total_size"] = len(items)
    if len(items) > start + size:
        answer["next_page_token"] = base64.b64encode(json.dumps([start + size, filter_text, sort_by]).encode()).decode()
    return answer
