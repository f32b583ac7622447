"""Basic auth of MLflow, and one more rule: the server alone decides where files are kept.

MLflow lets whoever may create an experiment name its `artifact_location`: a path of the server, below which it then
lists and serves files, or any bucket that its keys open. It has no setting against it, but calls the
`authorization_function` of its auth file before every request.
"""

from __future__ import annotations

import json

from flask import Response, request
from mlflow.server.auth import authenticate_request_basic_auth
from werkzeug.datastructures import Authorization

# Both are names of the field to MLflow's parser.
_FIELDS = ("artifact_location", "artifactLocation")


def authenticate() -> Authorization | Response:
    """Who calls, or the answer that ends the request: 401 without a valid login, 400 for a location of their own."""
    caller: Authorization | Response = authenticate_request_basic_auth()
    if isinstance(caller, Response) or not request.path.endswith("/mlflow/experiments/create"):
        return caller
    if _names_a_location(request.get_json(force=True, silent=True)):
        message = "artifact_location is not accepted: the server decides where files are kept; leave it out"
        body = json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": message})
        return Response(body, status=400, mimetype="application/json")
    return caller


def _names_a_location(body: object) -> bool:
    # Old clients send JSON as a string inside JSON, and MLflow unpacks it.
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except ValueError:
            return False
    return isinstance(body, dict) and any(body.get(name) for name in _FIELDS)
