"""When a segment of a stream ends: the three rules of sherpa-onnx, with its own defaults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EndpointRules:
    """A segment ends with the first rule that holds."""

    silence_before_words_s: float = 2.4
    silence_after_words_s: float = 1.2
    max_segment_s: float = 20.0

    def reached(self, *, has_words: bool, trailing_silence_s: float, segment_s: float) -> bool:
        """Whether the segment ends here.

        Args:
            has_words: something was recognised in it.
            trailing_silence_s: decoded audio since the last token, or since the segment's start.
            segment_s: decoded audio of the segment.
        """
        allowed_s = self.silence_after_words_s if has_words else self.silence_before_words_s
        return trailing_silence_s >= allowed_s or segment_s >= self.max_segment_s
