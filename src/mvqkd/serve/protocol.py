"""Messages of ``/v1/stream``: what a client may say, what the server answers, and what a fault costs.

A client sends one start message (JSON), then audio (binary messages of whole samples), then ``{"type": "end"}``.
docs/serving.md shows every message.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from mvqkd.errors import MvqkdError
from mvqkd.frames import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from mvqkd.decode.streaming import StreamResult

ModelName = Literal["champion", "challenger"]
SampleFormat = Literal["f32le", "s16le"]

MODEL_NAMES: tuple[ModelName, ...] = ("champion", "challenger")
SAMPLE_FORMATS: dict[SampleFormat, str] = {"f32le": "<f4", "s16le": "<i2"}
# Below it speech is not understandable, above it nobody records speech.
MIN_RATE_HZ, MAX_RATE_HZ = 8_000, 96_000
MAX_TEXT_CHARACTERS = 4096
# One binary message: above it a client should send smaller blocks, because results come a block at a time.
MAX_MESSAGE_BYTES = 512 * 1024

CLOSE_NORMAL, CLOSE_MALFORMED, CLOSE_POLICY, CLOSE_INTERNAL = 1000, 1007, 1008, 1011
CLOSE_RESTART, CLOSE_BUSY = 1012, 1013

EndReason = Literal["client", "max_duration", "draining"]
CLOSE_CODE_OF_END: dict[EndReason, int] = {
    "client": CLOSE_NORMAL,
    "max_duration": CLOSE_POLICY,
    "draining": CLOSE_RESTART,
}


class ClientFault(MvqkdError):
    """Something a client did or asked for that the server does not do; its text goes to the client.

    Args:
        code: one word for programs.
        close_code: of the WebSocket.
        status: of an HTTP answer.
        retry_after_s: when it may work.
    """

    def __init__(
        self,
        subject: str,
        *,
        code: str,
        close_code: int = CLOSE_MALFORMED,
        status: int = 400,
        retry_after_s: int | None = None,
        expected: str,
        got: str,
        next_step: str,
    ) -> None:
        super().__init__(subject, expected=expected, got=got, next_step=next_step)
        self.code = code
        self.close_code = close_code
        self.status = status
        self.retry_after_s = retry_after_s

    def message(self) -> dict[str, Any]:
        """The error message of a stream."""
        hint = {} if self.retry_after_s is None else {"retry_after_s": self.retry_after_s}
        return {"type": "error", "code": self.code, "message": str(self), **hint}


@dataclass(frozen=True)
class Start:
    """What a client wants."""

    model: ModelName = "champion"
    sample_rate_hz: int = SAMPLE_RATE_HZ
    sample_format: SampleFormat = "f32le"


def parse_start(text: str) -> Start:
    """Read the first message.

    Raises:
        ClientFault: not JSON, unknown keys, or values out of range.
    """
    message = _json_object(text, {"type", "sample_rate", "format", "model"})
    if message.get("type") != "start":
        raise _fault("first message", expected='"type": "start"', got=_shown(message.get("type")))
    rate = message.get("sample_rate", SAMPLE_RATE_HZ)
    if type(rate) is not int or not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
        raise _fault("sample_rate", expected=f"an integer from {MIN_RATE_HZ} to {MAX_RATE_HZ}", got=_shown(rate))
    sample_format = _choice("format", message.get("format", "f32le"), tuple(SAMPLE_FORMATS))
    model = _choice("model", message.get("model", "champion"), MODEL_NAMES)
    return Start(cast(ModelName, model), rate, cast(SampleFormat, sample_format))


def parse_end(text: str) -> None:
    """Read a text message after the first: only the end of the audio may be said there.

    Raises:
        ClientFault: anything else.
    """
    message = _json_object(text, {"type"})
    if message.get("type") != "end":
        raise _fault("message", expected='"type": "end"', got=_shown(message.get("type")))


def partial_message(segment: int, result: StreamResult, audio_s: float) -> dict[str, Any]:
    """What was recognised so far in an open segment; ``audio_s``: the audio that it rests on, from the start."""
    return {"type": "partial", **_segment(segment, result, audio_s)}


def final_message(segment: int, result: StreamResult, audio_s: float) -> dict[str, Any]:
    """A closed segment: its text will not change."""
    return {"type": "final", **_segment(segment, result, audio_s)}


def end_message(reason: EndReason, texts: Sequence[str], audio_s: float, decode_s: float) -> dict[str, Any]:
    """The last message: why it is the last, and totals."""
    return {
        "type": "end",
        "reason": reason,
        "segments": len(texts),
        "text": " ".join(texts),
        "audio_s": round(audio_s, 3),
        "decode_s": round(decode_s, 4),
    }


def _segment(segment: int, result: StreamResult, audio_s: float) -> dict[str, Any]:
    return {
        "segment": segment,
        "text": result.text,
        "tokens": list(result.tokens),
        "times_s": [round(time_s, 3) for time_s in result.times_s],
        "audio_s": round(audio_s, 3),
    }


def _json_object(text: str, known: set[str]) -> Mapping[str, Any]:
    if len(text) > MAX_TEXT_CHARACTERS:
        raise _fault("message", expected=f"at most {MAX_TEXT_CHARACTERS} characters", got=f"{len(text)}")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise _fault("message", expected="a JSON object", got="text that is not JSON") from None
    if not isinstance(message, dict):
        raise _fault("message", expected="a JSON object", got=f"JSON of another type ({type(message).__name__})")
    for key in message:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            meant = f"{near[0]}?" if near else "nothing like it"
            raise _fault("message", expected=f"keys {', '.join(sorted(known))}", got=f"{_shown(key)} ({meant})")
    return message


def _choice(name: str, value: object, allowed: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise _fault(name, expected=" or ".join(allowed), got=_shown(value))
    return value


def _fault(subject: str, *, expected: str, got: str) -> ClientFault:
    return ClientFault(
        subject, code="malformed", expected=expected, got=got, next_step="see the protocol in docs/serving.md"
    )


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
