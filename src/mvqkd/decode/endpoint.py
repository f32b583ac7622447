"""When a segment of a stream ends: rules in the style of sherpa-onnx's, with its defaults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EndpointRules:
    """A segment ends with the first rule that holds; all in seconds of decoded audio.

    Args:
        silence_before_words_s: of silence, where nothing was said yet.
        silence_after_words_s: of silence, after words.
        long_segment_s: from this length on, the next short pause ends it; sherpa-onnx would cut at once, in mid-word.
        pause_s: how long such a pause is.
    """

    silence_before_words_s: float = 2.4
    silence_after_words_s: float = 1.2
    long_segment_s: float = 20.0
    pause_s: float = 0.32

    def reached(self, *, has_words: bool, trailing_silence_s: float, segment_s: float) -> bool:
        """Whether the segment ends here.

        Args:
            has_words: something was recognised in it.
            trailing_silence_s: decoded audio since the last token, or since the segment's start.
            segment_s: decoded audio of the segment.
        """
        if trailing_silence_s >= (self.silence_after_words_s if has_words else self.silence_before_words_s):
            return True
        return segment_s >= self.long_segment_s and trailing_silence_s >= self.pause_s
