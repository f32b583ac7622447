"""What a Kubeflow Pipelines server's refusals and silences mean, each as one line with a next step."""

from __future__ import annotations

import json
import re
import ssl
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import kfp_server_api
import urllib3
from urllib3 import exceptions

from mvqkd.errors import MvqkdError

MAX_MESSAGE_CHARS = 300
_BEARER = re.compile(r"(?i)(\bbearer\s+)[^\s\"']+")
ALREADY_EXISTS = 6  # of gRPC; the HTTP status 409 also stands for its "aborted", which is how the server says "wrong"


class PipelineServerError(MvqkdError):
    """The Kubeflow Pipelines server refused, failed or did not answer.

    Args:
        status: HTTP status, None where there was no answer.
        code: gRPC code in the answer, None where there was none.
    """

    def __init__(
        self,
        subject: str,
        *,
        expected: str,
        got: str,
        next_step: str,
        status: int | None = None,
        code: int | None = None,
    ) -> None:
        super().__init__(subject, expected=expected, got=got, next_step=next_step)
        self.status = status
        self.code = code

    @property
    def already_exists(self) -> bool:
        """Whether the thing to create is there."""
        # The upload endpoints answer without a code.
        return self.status == 409 and self.code in (ALREADY_EXISTS, None)

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed in a minute."""
        return self.status is None or self.status == 429 or self.status >= 500


class Sign(NamedTuple):
    """Who asks whom: what error messages need to know."""

    host: str
    timeout_s: float
    with_credentials: bool
    secrets: tuple[str, ...]


class NotTheServer(Exception):
    """Something that is no JSON came, most often a login page; the argument is its content type."""


def as_error(error: Exception, subject: str, *, writing: bool, sign: Sign) -> PipelineServerError:
    """The line for a user.

    Args:
        error: what kfp_server_api or urllib3 raised.
        subject: what was being done, with names.
        writing: whether the request may have changed something.
        sign: of the connection; its secrets appear nowhere in the result.
    """
    if isinstance(error, kfp_server_api.ApiException) and error.status:
        return _refusal(error, subject, writing, sign)
    if isinstance(error, NotTheServer):
        got = f"{error} from {sign.host}"
        return _error(
            subject, sign, 200, None, "JSON", got, f"check the path in --host; if it is a login page, {_login(sign)}"
        )
    cause = error.reason if isinstance(error, exceptions.MaxRetryError) and error.reason else error
    expected, got, next_step = _silence(cause, writing, sign)
    return _error(subject, sign, None, None, expected, got, next_step)


def _refusal(error: kfp_server_api.ApiException, subject: str, writing: bool, sign: Sign) -> PipelineServerError:
    status = int(error.status)
    code, message = _said(error.body)
    got = f"HTTP {status} {error.reason or ''}".rstrip() + (f": {message}" if message else "")
    expected, next_step = "an answer", "read the server's message"
    if 300 <= status < 400:
        where = urlsplit((error.headers or {}).get("Location", "")).hostname or "another page"
        expected, got, next_step = "an answer", f"HTTP {status}, a redirect to {where}", _login(sign)
    elif status == 401:
        expected, next_step = "credentials that the server accepts", _login(sign)
    elif status == 403:
        expected = "permission to do this"
        next_step = "ask for a role in that namespace that allows it, or pass another --namespace"
    elif status == 404:
        expected, next_step = "something of that name or id", "check it, --namespace, and the path in --host"
    elif status == 409 and code in (ALREADY_EXISTS, None):
        expected, next_step = "a free name", "take another name, or delete what has it"
    elif status in (400, 409):
        expected = "a request that the server finds valid"
        next_step = "change what the message names; an upload is refused so without permission as well"
    elif status == 429:
        expected, next_step = "time for this request", "wait a minute and run the command again"
    elif status >= 500:
        expected = "a working server"
        next_step = "read the log of the deployment ml-pipeline, then run the command again" + _safely(writing)
    return _error(subject, sign, status, code, expected, got, next_step)


def _silence(cause: BaseException, writing: bool, sign: Sign) -> tuple[str, str, str]:
    """Expected, got and next step where no answer came."""
    expected = f"an answer from {sign.host}"
    # These two are timeouts to urllib3.
    if isinstance(cause, exceptions.NameResolutionError):
        return expected, "no address for that name", "check --host; names of a cluster's services are known inside only"
    if isinstance(cause, exceptions.NewConnectionError):
        next_step = "check --host, or run `kubectl port-forward -n kubeflow svc/ml-pipeline 8888` beside this command"
        return expected, f"no connection ({_last_words(cause)})", next_step
    if isinstance(cause, exceptions.ReadTimeoutError | exceptions.ConnectTimeoutError | TimeoutError):
        next_step = "check that the server is up, or pass a longer --timeout-s; then run the command again"
        return expected, f"none within {sign.timeout_s:g} s", next_step + _safely(writing)
    if isinstance(cause, exceptions.SSLError | ssl.SSLError):
        if "WRONG_VERSION_NUMBER" in str(cause):
            return expected, "something that is not TLS", "pass --host http://... if the server has none"
        reason = _ssl_reason(cause)
        next_step = "pass --ca-cert FILE with the CA that signed it, or have it renewed"
        if "mismatch" in reason:
            next_step = "pass --host with a name that is in it"
        return expected, f"a certificate that is not trusted ({reason})", next_step
    if isinstance(cause, OSError) and cause.filename:
        return "a file to read", f"{cause.strerror}: {cause.filename}", "pass --token-file FILE"
    return expected, f"a broken connection ({_last_words(cause)})", "run the command again" + _safely(writing)


def _said(body: Any) -> tuple[int | None, str]:
    """gRPC code and message of an error's body: of the API, of its uploads, of an older server, or of a proxy."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or "")
    try:
        answer = json.loads(text)
    except ValueError:
        return None, "" if "<html" in text[:1000].lower() else text
    if not isinstance(answer, dict):
        return None, text
    code = answer.get("code")
    details = answer.get("details")
    # The message itself repeats every layer of the server; the first detail is what it wants users to read. Where
    # that is only "Internal Server Error", the layers say more.
    short = next((str(item["message"]) for item in details or [] if isinstance(item, dict) and item.get("message")), "")
    whole = str(answer.get("message") or answer.get("error_message") or answer.get("error") or "")
    return code if isinstance(code, int) else None, short if short and code != 13 else whole or short


def _login(sign: Sign) -> str:
    if sign.with_credentials:
        return "the token or cookie may have expired: get a new one for MVQKD_KFP_TOKEN or MVQKD_KFP_COOKIES"
    return "set MVQKD_KFP_TOKEN or MVQKD_KFP_COOKIES, or pass --token-file"


def _safely(writing: bool) -> str:
    return " (it looks first whether this request was carried out)" if writing else ""


def _ssl_reason(cause: BaseException) -> str:
    for error in (cause, *cause.args):
        if isinstance(error, ssl.SSLCertVerificationError):
            return str(error.verify_message)
    return _last_words(cause)


def _last_words(cause: BaseException) -> str:
    return str(cause).rpartition(": ")[2] or type(cause).__name__


def _error(
    subject: str, sign: Sign, status: int | None, code: int | None, expected: str, got: str, next_step: str
) -> PipelineServerError:
    got = " ".join(got.split())
    got = _BEARER.sub(r"\1***", got)
    for secret in sign.secrets:
        got = got.replace(secret, "***")
    if len(got) > MAX_MESSAGE_CHARS:
        got = got[:MAX_MESSAGE_CHARS] + " ..."
    return PipelineServerError(subject, expected=expected, got=got, next_step=next_step, status=status, code=code)


def worth_repeating(error: Exception) -> bool:
    """Whether a request that only reads is repeated: the server failed, or was silent for too long."""
    if isinstance(error, kfp_server_api.ApiException):
        return bool(error.status and error.status >= 500)
    cause = error.reason if isinstance(error, exceptions.MaxRetryError) else error
    return isinstance(cause, urllib3.exceptions.TimeoutError) and not isinstance(cause, exceptions.NewConnectionError)
