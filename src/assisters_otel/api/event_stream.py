"""Reads an event stream as it passes, and says how it ended. Pure: bytes in, values out.

Nothing is kept but the unfinished event, up to `MAX_BYTES`, and the first error. Source:
WHATWG HTML, server-sent events, "Interpreting an event stream"; what counts as an error
event is what the official `openai` client takes for one, and ``event: error``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from assisters_otel.api import endpoints, error_body, limits
from assisters_otel.api import headers as response_headers
from assisters_otel.api.content_encoding import _hidden, decoder_for
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from assisters_otel.api.error_body import Envelope

MAX_BYTES: Final = limits.MAX_BYTES
"""What is kept of an unfinished event. A longer one is counted, and not looked into."""

MAX_NAME: Final = 64
"""What is kept of an event's name."""

_LF, _CR = _ENDS = b"\n\r"
_BOM: Final = b"\xef\xbb\xbf"
_DONE: Final = b"[DONE]"
_ORDINARY: Final = (b"data: {", b"data:{")
_ERROR: Final = b'"error"'
_NAMED: Final = b"error"
# What a chunk of a compressed stream may unpack to, in lines, which are what costs: a bomb of a
# hundred bytes may hold millions. An ordinary chat was seen to have 2 lines a byte at most.
_MAX_LINES: Final = 2 * MAX_BYTES
_LINES_A_BYTE: Final = 8
_BYTES_A_LINE: Final = 1024


class EventStreamScanner:
    """What has passed of one event stream.

    Attributes:
        chunks: Data events so far, ``[DONE]`` not counted.
        done: Whether ``data: [DONE]`` was among them.
        error: The first error event's envelope, an empty one if it says nothing; or None.
        is_hidden: Whether a content encoding hides what is said.
    """

    __slots__ = (
        "_data",
        "_errors",
        "_event",
        "_has_line",
        "_is_after_cr",
        "_is_at_rest",
        "_is_begun",
        "_is_line_cut",
        "_is_too_long",
        "_line",
        "_room",
        "_size",
        "_unpack",
        "chunks",
        "done",
        "error",
        "is_hidden",
    )

    def __init__(self, content_encoding: bytes = b"") -> None:
        """Begin with nothing.

        Args:
            content_encoding: The header's value.
        """
        self.chunks = 0
        self.done = False
        self.error: Envelope | None = None
        encoding = content_encoding.strip().lower()
        self._unpack, self._errors = decoder_for(encoding)
        self.is_hidden = self._unpack is _hidden
        self._line = bytearray()
        self._has_line = False
        self._is_line_cut = False
        self._data: list[bytes] = []
        self._event = b""
        self._size = 0
        self._room = _MAX_LINES
        self._is_begun = False
        self._is_after_cr = False
        self._is_too_long = False
        self._is_at_rest = False

    def is_ordinary(self, chunk: bytes) -> bool:
        """Take a chunk that is one whole event of one line, and neither an end nor an error.

        Nearly all are, so this is what a stream costs: a few searches, each in C.

        Returns:
            Whether it was one. If not, nothing was done, and `feed` is to take it.
        """
        if (
            self._is_at_rest
            and chunk.startswith(_ORDINARY)
            and chunk.find(b"\n") == len(chunk) - 2
            and chunk[-1] == _LF
            and chunk.find(b"\r") < 0
            and chunk.find(_ERROR) < 0
        ):
            self.chunks += 1
            return True
        return False

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes, however they were cut."""
        if self._unpack is None:
            self._read(chunk)
            # Not before the first event of data, of which the time is told.
            self._is_at_rest = self.chunks > 0 and not (
                self._has_line or self._data or self._event or self._is_after_cr
            )
            return
        self._room = min(self._room + _LINES_A_BYTE * len(chunk), _MAX_LINES)
        try:
            for plain in self._unpack(chunk):
                self._room -= plain.count(b"\n") + plain.count(b"\r") + len(plain) // _BYTES_A_LINE
                if self._room < 0:  # a bomb: what it says is worth no app's time
                    self._hide()
                    return
                self._read(plain)
        except self._errors:  # the client's own decoder will say so
            self._hide()

    def _hide(self) -> None:
        self._unpack = _hidden
        self.is_hidden = True

    def finish(self) -> None:
        """Look at what is left: nothing more will come.

        An SDK may close the stream at the line ``data: [DONE]``, before the blank one that
        ends the event; a server may die behind the line that says why. Neither is counted.
        """
        if self._has_line:
            self._end_line()
        if self._data:
            self._look()

    def _read(self, chunk: bytes) -> None:
        if self._is_after_cr and chunk[:1] == b"\n":
            chunk = chunk[1:]
            self._is_after_cr = False
        if not chunk:
            return
        self._is_after_cr = chunk[-1] == _CR
        for line in chunk.splitlines(keepends=True):
            if line[-1] not in _ENDS:
                self._keep(line)
                return
            self._keep(line.rstrip(b"\r\n"))
            if self._has_line:
                self._end_line()
            else:
                self._end_event()

    def _keep(self, part: bytes) -> None:
        if not part:
            return
        self._has_line = True
        room = MAX_BYTES - self._size
        if len(part) > room:
            self._is_line_cut = True
            part = part[:room]
        self._line += part
        self._size += len(part)

    def _end_line(self) -> None:
        line = bytes(self._line)
        self._line.clear()
        if not self._is_begun:
            self._is_begun = True
            line = line.removeprefix(_BOM)
        name, colon, value = line.partition(b":")
        value = value.removeprefix(b" ")
        # Cut before its colon it may be data as well.
        self._is_too_long |= self._is_line_cut and (name == b"data" or not colon)
        if name == b"data":
            self._data.append(value)
        else:
            self._size -= len(line)
            if name == b"event":
                self._event = value[:MAX_NAME]
        self._has_line = self._is_line_cut = False

    def _end_event(self) -> None:
        self._is_begun = True
        if self._data and not self._look():
            self.chunks += 1
        self._data.clear()
        self._event = b""
        self._size = 0
        self._is_too_long = False

    def _look(self) -> bool:
        """Look for what an event's data says, and tell whether it is the end."""
        data = b"\n".join(self._data)
        if data.rstrip(b" \t") == _DONE:  # `openai` minds no blank behind it
            self.done = True
            return True
        if self.error is None:
            is_named = self._event == _NAMED
            told = None
            if self._is_too_long:
                told = error_body.parse_truncated_event(data)
            elif is_named or _ERROR in data:
                told = error_body.parse_error_event(data, is_named=is_named)
            self.error = error_body.Envelope() if told is None and is_named else told
        return False


def scanner_for(headers: Mapping[bytes, bytes]) -> EventStreamScanner | None:
    """Watch an answer's body if it is an event stream.

    Args:
        headers: What `response_headers.pick` took.
    """
    if not response_headers.is_event_stream(headers):
        return None
    return EventStreamScanner(headers.get(response_headers.CONTENT_ENCODING, b""))


ENDED: Final = "ended"
BROKE: Final = "broke"
CLOSED: Final = "closed"
FORGOTTEN: Final = "forgotten"


def stream_outcome(events: EventStreamScanner, way: str, template: str | None) -> str:
    """Say how a stream ended: the first of `names.STREAM_OUTCOMES` that applies.

    Args:
        events: What has passed of it.
        way: `ENDED` at the body's end, `BROKE` with an exception, `CLOSED` before either,
            or `FORGOTTEN`.
        template: The documented path; a chat ends with ``[DONE]``, of the others nothing
            is documented.
    """
    events.finish()
    if events.error is not None:
        return names.STREAM_ERROR
    if events.done:
        return names.COMPLETED
    if way == ENDED:
        can_tell = template == endpoints.CHAT and not events.is_hidden
        return names.TRUNCATED if can_tell else names.COMPLETED
    return {BROKE: names.STREAM_ERROR, CLOSED: names.CANCELLED_STREAM}.get(way, names.ABANDONED)
