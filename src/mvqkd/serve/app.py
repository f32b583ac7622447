"""The ASGI application: routes, errors as JSON, the page."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from mvqkd.serve.protocol import ClientFault
from mvqkd.serve.security import Guard
from mvqkd.serve.service import Service
from mvqkd.serve.stream_endpoint import stream_endpoint
from mvqkd.serve.upload_endpoint import transcribe_endpoint

STATIC = Path(__file__).parent / "static"


def build_app(service: Service) -> Starlette:
    """The application of one server."""
    settings = service.settings
    app = Starlette(
        routes=[
            Route("/", _page),
            Route("/healthz", _healthz),
            Route("/readyz", _readyz),
            Route("/metrics", _metrics),
            Route("/v1/models", _models),
            Route("/v1/transcribe", transcribe_endpoint, methods=["POST"]),
            Route("/v1/transcribe", _preflight, methods=["OPTIONS"]),
            WebSocketRoute("/v1/stream", stream_endpoint),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[
            Middleware(
                Guard,
                is_loopback=settings.is_loopback,
                allow_origins=settings.allow_origins,
                metrics=service.metrics,
            )
        ],
        exception_handlers={
            ClientFault: _client_fault,
            HTTPException: _http_error,
            ClientDisconnect: _disconnected,
            Exception: _internal_error,
        },
    )
    app.state.service = service
    return app


async def _page(_: Request) -> Response:
    return FileResponse(STATIC / "index.html")


async def _healthz(request: Request) -> Response:
    if not _service(request).worker.is_alive:
        return JSONResponse({"status": "the decoding thread has ended"}, status_code=503)
    return JSONResponse({"status": "live"})


async def _readyz(request: Request) -> Response:
    if _service(request).is_draining:
        return JSONResponse({"status": "draining"}, status_code=503)
    return JSONResponse({"status": "ready"})


async def _metrics(request: Request) -> Response:
    return Response(_service(request).metrics.page(), media_type=CONTENT_TYPE_LATEST)


async def _models(request: Request) -> Response:
    """What this server can do: for the page, and for whoever looks."""
    service = _service(request)
    return JSONResponse(
        {
            "models": {name: slot.current.describe() for name, slot in service.slots.items()},
            "max_upload_mb": service.settings.max_upload_mb,
            "max_duration_s": service.settings.max_duration_s,
        }
    )


async def _preflight(_: Request) -> Response:
    """A browser asks before a page of another origin uploads; the guard has decided and adds the headers."""
    return Response(status_code=204)


def _client_fault(request: Request, error: Exception) -> Response:
    assert isinstance(error, ClientFault)
    _service(request).metrics.rejected.labels(error.code).inc()
    # What is left of a refused upload is not read, so the connection cannot serve another request.
    headers = {"connection": "close"}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    return _error(error.status, error.code, str(error), headers)


def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, "http", error.detail, dict(error.headers or {}))


def _disconnected(request: Request, _: Exception) -> Response:
    _service(request).metrics.disconnects.inc()
    return Response(status_code=499)  # nobody reads it


def _internal_error(_: Request, __: Exception) -> Response:
    # The traceback is in the server's log, where Starlette's outermost middleware puts it.
    return _error(500, "internal", "a fault in the server; its log says more", {})


def _error(status: int, code: str, message: str, headers: dict[str, str]) -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status_code=status, headers=headers)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service
