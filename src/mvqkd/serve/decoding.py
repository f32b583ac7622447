"""One stream as the decoding thread sees it: audio in, segments out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mvqkd.decode.endpoint import EndpointRules
from mvqkd.serve.mailbox import Mailbox, Message
from mvqkd.serve.protocol import end_message, final_message, partial_message

if TYPE_CHECKING:
    from mvqkd.decode.streaming import AudioStream
    from mvqkd.serve.models import LoadedModel

# The rules wait for a pause. Each partial repeats its segment, so that one without end would cost ever more.
_MAX_SEGMENT_S = 60.0


class StreamDecoding:
    """State of a stream's recognition; used by the decoding thread alone, except for construction.

    Args:
        model: recognises this stream from its first to its last chunk.
        mailbox: where audio comes from and messages go.
    """

    def __init__(self, model: LoadedModel, mailbox: Mailbox, rules: EndpointRules | None = None) -> None:
        self.model = model
        self.mailbox = mailbox
        self.arrived = 0.0
        """When the last audio came that the waiting chunk needs (``time.monotonic``)."""
        self.decode_s = 0.0
        self._rules = rules or EndpointRules()
        self._audio: AudioStream | None = None
        self._is_finished = False
        self._segment_start_s = 0.0
        self._texts: list[str] = []

    @property
    def audio(self) -> AudioStream:
        """The recogniser's stream; made on first use, because the recogniser belongs to the decoding thread."""
        if self._audio is None:
            self._audio = self.model.recognizer.open_stream()
        return self._audio

    @property
    def is_done(self) -> bool:
        """All audio is decoded and no more will come."""
        return self._is_finished and not self.audio.ready

    def fill(self) -> bool:
        """Move audio from the mailbox to the recogniser until a chunk waits there; whether one does."""
        # Read before the queue is emptied: nothing is added to the queue once this is set.
        is_last = self.mailbox.end_reason is not None
        while not self.audio.ready:
            block = self.mailbox.take()
            if block is None:
                break
            samples, self.arrived = block
            self.audio.accept(samples)
        else:
            return True
        if is_last and not self._is_finished:
            self._is_finished = True
            self.audio.finish()
        return self.audio.ready

    def after_chunk(self) -> list[Message]:
        """Messages to send after the recogniser has advanced this stream by one chunk."""
        result = self.audio.result
        segment_s = self.audio.decoded_s - self._segment_start_s
        is_over = self._rules.reached(
            has_words=bool(result.tokens), trailing_silence_s=self.audio.trailing_silence_s, segment_s=segment_s
        )
        if is_over or segment_s >= _MAX_SEGMENT_S:
            return self._close_segment()
        return [partial_message(len(self._texts), result, self._audio_s())]

    def last_messages(self) -> list[Message]:
        """The open segment, if something was said in it, and the totals."""
        assert self.mailbox.end_reason is not None
        messages = self._close_segment()
        totals = end_message(self.mailbox.end_reason, self._texts, self.audio.duration_s, self.decode_s)
        return [*messages, totals]

    def _close_segment(self) -> list[Message]:
        """A segment without words gives no message: its number goes to the next one."""
        result = self.audio.reset()
        self._segment_start_s = self.audio.decoded_s
        if not result.tokens:
            return []
        message = final_message(len(self._texts), result, self._audio_s())
        self._texts.append(result.text)
        return [message]

    def _audio_s(self) -> float:
        """Audio that had to be there for the chunks decoded so far."""
        recognizer = self.model.recognizer
        needed_s = recognizer.latency_s + (self.audio.num_chunks - 1) * recognizer.chunk_s
        return min(self.audio.duration_s, needed_s)
