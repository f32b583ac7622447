"""Errors name subject, expected, got and next step on one line."""

from __future__ import annotations

import inspect

import pytest

from mvqkd import errors
from mvqkd.errors import ArtifactError, ArtifactMismatchError, ConfigError, MvqkdError

ERROR_CLASSES = [item for _, item in inspect.getmembers(errors, inspect.isclass)]


def test_message_has_every_part_on_one_line() -> None:
    error = ConfigError("params.yaml, gate.max_wer", expected="a number\n> 0", got="'x'", next_step="change it")
    assert str(error) == "params.yaml, gate.max_wer: expected a number > 0, got 'x'; change it"
    assert (error.subject, error.next_step) == ("params.yaml, gate.max_wer", "change it")


@pytest.mark.parametrize("error_class", ERROR_CLASSES, ids=lambda item: item.__name__)
def test_every_error_is_one_of_ours_and_documented(error_class: type[MvqkdError]) -> None:
    assert issubclass(error_class, MvqkdError)
    assert error_class.__doc__
    assert error_class.__name__ in (errors.__doc__ or ""), "the tree on top of errors.py leaves it out"


def test_artifact_errors_can_be_caught_together() -> None:
    with pytest.raises(ArtifactError):
        raise ArtifactMismatchError("a", expected="b", got="c", next_step="d")
