"""A connection to a Kubeflow Pipelines server: credentials, time limits, repetitions, and errors of one line each."""

from __future__ import annotations

import functools
import ssl
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kfp
import kfp_server_api
import urllib3
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials

from mvqkd.errors import ConfigError
from pipelines.answers import NotTheServer, Sign, as_error, worth_repeating

PAGE_SIZE = 100
_FAULTS = (kfp_server_api.ApiException, urllib3.exceptions.HTTPError, NotTheServer)


@dataclass(frozen=True)
class Connection:
    """Where the server is and who asks.

    Args:
        host: URL of the API, without credentials; a path in it is kept (``https://kubeflow.example/pipeline``).
        namespace: of a server with several users; others ignore it.
        token: bearer token.
        token_file: file with one, read again before each request, because Kubernetes renews it.
        cookies: ``name=value; name=value``, as a browser sends them after a login.
        ca_cert: file of the CA that signed the server's certificate; None: those that Mozilla trusts.
        timeout_s: for each request.
        attempts: for requests that only read, when the server fails or is silent.
        pause_s: before the first repetition; doubles each time.
    """

    host: str
    namespace: str = ""
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    cookies: str = field(default="", repr=False)
    ca_cert: Path | None = None
    timeout_s: float = 30.0
    attempts: int = 4
    pause_s: float = 1.0


class Server:
    """A Kubeflow Pipelines server that has answered once.

    Args:
        client: kfp's client; its services (``runs``, ``pipelines``, ...) are called through ``ask``.
        connection: what it was made from.
        namespace: to pass on; empty where the server has one user.
    """

    def __init__(self, client: kfp.Client, connection: Connection) -> None:
        self.client = client
        self.host = connection.host.rstrip("/")
        self.namespace = connection.namespace
        self._sign = _sign(connection)

    def ask(self, subject: str, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Call one function of the API.

        Args:
            subject: what is being done, for error messages.
            function: of a service of ``client``.
        Raises:
            PipelineServerError: the server refused, failed or did not answer.
        """
        try:
            return function(*arguments, **keywords)
        except (*_FAULTS, OSError) as error:
            writing = not any(word in function.__name__ for word in ("_get_", "_list_"))
            raise as_error(error, subject, writing=writing, sign=self._sign) from error

    def all_of(self, subject: str, function: Callable[..., Any], attribute: str, **keywords: Any) -> Iterator[Any]:
        """Items of a list that the server gives page by page; later pages are asked for when they are needed."""
        token = ""
        while True:
            page = self.ask(subject, function, page_token=token, page_size=PAGE_SIZE, **keywords)
            yield from getattr(page, attribute) or []
            token = page.next_page_token or ""
            if not token:
                return

    @property
    def in_namespace(self) -> dict[str, str]:
        """The keyword that most functions take where the server has several users."""
        return {"namespace": self.namespace} if self.namespace else {}

    def page(self, path: str) -> str:
        """Address of a page of the user interface."""
        return f"{self.host}/#/{path}"


def connect(connection: Connection) -> Server:
    """Find out that the server answers and what kind it is.

    Raises:
        ConfigError: the connection cannot be one.
        PipelineServerError: the server refused, failed or did not answer.
    """
    _check(connection)
    server = Server(_client(connection), connection)
    health = server.ask(f"server {server.host}", server.client.healthzs.healthz_service_get_healthz)
    if not health.multi_user:
        # It has one namespace, and older ones refuse requests that name any.
        server.namespace = ""
    elif not server.namespace:
        raise ConfigError(
            f"server {server.host}",
            expected="a namespace, as it serves several users",
            got="none",
            next_step="pass --namespace NAME",
        )
    return server


def _check(connection: Connection) -> None:
    url = urlsplit(connection.host)
    if url.scheme not in ("http", "https") or not url.hostname:
        got, next_step = repr(connection.host), "pass --host http://... or https://..."
    elif url.username or url.password:
        got, next_step = "credentials in it", "put them into MVQKD_KFP_TOKEN or MVQKD_KFP_COOKIES"
    elif url.query or url.fragment:
        got, next_step = "what follows the path", "leave out ? and # and what follows them"
    else:
        _check_file(connection.token_file, "--token-file", lambda file: file.read_text(encoding="utf-8").strip())
        _check_file(connection.ca_cert, "--ca-cert", lambda file: ssl.create_default_context(cafile=file))
        return
    raise ConfigError("--host", expected="the URL of a server", got=got, next_step=next_step)


def _check_file(file: Path | None, flag: str, read: Callable[[Path], object]) -> None:
    try:
        if file is None or read(file):
            return
        got = "an empty one"
    except ssl.SSLError:
        got = "one without certificates in PEM"
    except (OSError, UnicodeDecodeError) as error:
        got = getattr(error, "strerror", None) or str(error)
    raise ConfigError(f"{flag} {file}", expected="a file to read", got=got, next_step=f"pass {flag} FILE")


def _sign(connection: Connection) -> Sign:
    secrets = tuple(secret for secret in (connection.token, connection.cookies) if secret)
    return Sign(
        connection.host.rstrip("/"),
        connection.timeout_s,
        with_credentials=bool(secrets or connection.token_file),
        secrets=secrets,
    )


class _Client(kfp.Client):
    """kfp's client, without what it remembers in the home directory.

    A namespace and cookies of some earlier session would go to this server otherwise, and in a pod without a writable
    home it fails. A namespace in the settings also keeps it from asking, and sleeping 25 s, while it is being made.
    """

    def _load_context_setting_or_default(self) -> None:
        self._context_setting = {"namespace": "-"}


def _client(connection: Connection) -> kfp.Client:
    credentials = None
    if connection.token_file is not None and not connection.token:
        credentials = ServiceAccountTokenVolumeCredentials(str(connection.token_file))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This client only works with", FutureWarning)
        client = _Client(
            host=connection.host,
            existing_token=connection.token or None,
            credentials=credentials,
            cookies=connection.cookies or None,
            ssl_ca_cert=str(connection.ca_cert) if connection.ca_cert else None,
        )
    # kfp.Client has no arguments for time limits and repetitions. All its services share one client for HTTP.
    api = client._run_api.api_client
    api.rest_client = _Requests(api.configuration, connection)
    return client


class _Requests(kfp_server_api.rest.RESTClientObject):
    """HTTP with a limit on time; what only reads is repeated. kfp's own would wait for ever."""

    def __init__(self, configuration: Any, connection: Connection) -> None:
        # No redirects: they lead to login pages, and would carry the token along. No repetitions by urllib3, which
        # would also repeat what deletes.
        configuration.retries = urllib3.Retry(total=0, redirect=False)
        super().__init__(configuration)
        self._connection = connection

    def request(self, method: str, url: str, **keywords: Any) -> Any:
        """As in the base class, with ``_request_timeout`` from the connection."""
        limit = self._connection.timeout_s
        send = functools.partial(super().request, method, url, **(keywords | {"_request_timeout": (limit, limit)}))
        attempts = self._connection.attempts if method.upper() == "GET" else 1
        for attempt in range(attempts):
            try:
                response = send()
                break
            except _FAULTS as error:
                if attempt + 1 == attempts or not worth_repeating(error):
                    raise
                time.sleep(self._connection.pause_s * 2**attempt)
        kind = response.getheader("content-type") or "no content type"
        if "json" not in kind:
            # kfp would make an empty answer of it.
            raise NotTheServer(kind.partition(";")[0])
        return response
