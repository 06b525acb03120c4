"""Reads an event stream as it passes, and reports how it ended. Pure: bytes in, values out.

An event stream is the body of a streamed answer: server-sent events, one for each part of the text.
The caller reads it; `EventStreamScanner` gets the same chunks. It counts the data events, and finds
the first error event and the end, ``data: [DONE]``. A chunk may end anywhere, also inside a CRLF.

Rules. Source: WHATWG HTML, server-sent events, "Interpreting an event stream".

* A line ends with LF, CR or CRLF. A byte order mark before the first line is not part of it.
* ``data:`` lines of one event are joined with LF. Only ``data`` and ``event`` matter here.
* A blank line ends the event. An event without data is none, so comments do not count.
* An error event has the name ``error``, or its data is a JSON object with an ``error`` that is not
  empty. The latter is the rule of the official `openai` client.
* Other data that contains ``[DONE]`` is text of the model. What follows the end is not read.

How it works.

* `skip_plain_event` is the fast path. Nearly every chunk is one whole event of one line, and cannot
  be an error or the end. A few searches, each in C, show that. All other chunks go through `feed`.
* Between two chunks the scanner keeps the first error, and `MAX_BYTES` of the unfinished event. A
  longer event is counted, and its error is searched in the part that was kept.
* A compressed stream is decoded first, in bounded steps. The bytes received bound the number of
  lines that it may decode to, because a line costs time and a bomb holds millions. Beyond that
  bound, and after broken data, `is_undecodable` is true and nothing more is read.
* The last two events but ``[DONE]`` are kept, `MAX_BYTES` of both together at most. The usage and
  the finish reason stand there (`last_events.of_events`).
* `finish` inspects the event at the end of the body that no blank line has ended, and these two.

What would break it: `skip_plain_event` for a chunk in the middle of an event, or for the first data
event, whose time is recorded by the caller of `feed`. `_is_between_events` prevents both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from assisters_otel.api import error_body, last_events, limits
from assisters_otel.api.content_encoding import decoder_for, known_encodings

if TYPE_CHECKING:
    from assisters_otel.api.content_encoding import Decoder
    from assisters_otel.api.error_body import Envelope

MAX_BYTES: Final = limits.MAX_BYTES
"""The part of an unfinished event that is kept, in bytes. A longer event is counted."""

_MAX_PLAIN: Final = 16 * 1024
"""The length of a chunk that `skip_plain_event` takes. An ordinary event has some 200 bytes."""

MAX_NAME: Final = 64
"""The part of an event's name that is kept, in bytes. ``error`` and the ends of `responses` matter,
which are shorter."""

_MAX_TAIL: Final = 4096
"""The last bytes of an event that is too long to be kept. The usage stands near its end."""

_LF, _CR = _ENDS = b"\n\r"
_BOM: Final = b"\xef\xbb\xbf"
_DONE: Final = b"[DONE]"
_PLAIN_STARTS: Final = (b"data: {", b"data:{")
_ERROR_KEY: Final = b'"error"'
_ERROR_NAME: Final = b"error"
_NOT_ENCODED: Final = frozenset({b"", b"identity"})
# The budget of a compressed stream, in lines: a line costs time, and a hundred bytes may hold
# millions. A received byte adds `_LINES_A_BYTE`, up to `_MAX_LINES`; ordinary chats need 2 at most.
# A long line counts as one for each `_BYTES_A_LINE`.
_MAX_LINES: Final = 2 * MAX_BYTES
_LINES_A_BYTE: Final = 8
_BYTES_A_LINE: Final = 1024


class EventStreamScanner:
    """Reads one event stream, chunk by chunk.

    Attributes:
        chunks: The number of data events so far, without ``[DONE]``.
        done: True if ``data: [DONE]`` was among them.
        error: The envelope of the first error event, or None. It is empty if the event has no
            field of one.
        is_broken: True if the compressed data is broken, so that the client's decoder raises, too.
        last: The record of the answer in the last events. It is made by `finish`.
    """

    __slots__ = (
        "_data",
        "_decoder",
        "_event",
        "_has_line",
        "_is_after_cr",
        "_is_between_events",
        "_is_encoded",
        "_is_given_up",
        "_is_line_cut",
        "_is_past_bom",
        "_is_too_long",
        "_last",
        "_line",
        "_line_budget",
        "_may_be_encoded",
        "_previous",
        "_size",
        "_tail",
        "chunks",
        "done",
        "error",
        "is_broken",
        "last",
    )

    def __init__(self, content_encoding: bytes = b"") -> None:
        """Start with no events.

        Args:
            content_encoding: The value of the response's Content-Encoding.
        """
        self.chunks = 0
        self.done = self.is_broken = False
        self.error: Envelope | None = None
        self.last = last_events.LastEvents()
        self._previous = self._last = b""
        encodings = known_encodings(content_encoding)
        self._is_encoded = bool(encodings)
        self._decoder: Decoder | None = decoder_for(encodings[0]) if len(encodings) == 1 else None
        self._is_given_up = self._is_encoded and self._decoder is None
        self._may_be_encoded = content_encoding.strip().lower() not in _NOT_ENCODED
        self._line = bytearray()
        self._has_line = False
        self._is_line_cut = False
        self._data: list[bytes] = []
        self._event = self._tail = b""
        self._size = 0
        self._line_budget = _MAX_LINES
        self._is_past_bom = False
        self._is_after_cr = False
        self._is_too_long = False
        self._is_between_events = False

    def skip_plain_event(self, chunk: bytes) -> bool:
        """Count a chunk that is one whole event of one line, and neither the end nor an error.

        Returns:
            True if it was one. If False, nothing was done, and the caller must call `feed`.
        """
        # `find` takes 130 ns less than `in`, and this runs for each chunk.
        if (
            self._is_between_events
            and chunk.startswith(_PLAIN_STARTS)
            and chunk.find(b"\n") == (size := len(chunk)) - 2
            and size <= _MAX_PLAIN
            and chunk[-1] == _LF
            and chunk.find(b"\r") < 0
            and chunk.find(_ERROR_KEY) < 0
        ):
            self.chunks += 1
            self._previous, self._last = self._last, chunk
            return True
        return False

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes of the body, as sent. A chunk may end anywhere."""
        if not self._is_encoded:
            self._feed_decoded(chunk)
            self._is_between_events = self.chunks > 0 and not (
                self._has_line or self._data or self._event or self._is_after_cr or self.done
            )
            return
        decoder = self._decoder
        if decoder is None:
            return
        self._line_budget = min(self._line_budget + _LINES_A_BYTE * len(chunk), _MAX_LINES)
        try:
            for plain in decoder.decode(chunk):
                self._line_budget -= plain.count(b"\n") + plain.count(b"\r")
                self._line_budget -= len(plain) // _BYTES_A_LINE
                if self._line_budget < 0:
                    self._give_up_decoding()
                    return
                self._feed_decoded(plain)
        except decoder.errors:
            self.is_broken = True
            self._give_up_decoding()

    def _give_up_decoding(self) -> None:
        self._decoder = None
        self._is_given_up = True

    @property
    def has_begun(self) -> bool:
        """True if there has been an event."""
        return self.chunks > 0 or self.done or self.error is not None

    @property
    def is_undecodable(self) -> bool:
        """True if the events cannot be read.

        No decoder is installed, the data is broken, it is a bomb, or a body without an event has an
        encoding that is not known.
        """
        return self._is_given_up or (self._may_be_encoded and not self.has_begun)

    def finish(self) -> bool:
        """Inspect the last event if no blank line has ended it. Call it at the end of the body.

        An SDK may close the stream at the line ``data: [DONE]``, before the blank line. A server
        may die right behind the line with its error. Such an event is not counted in `chunks`.

        Returns:
            True if there has been an event.
        """
        if self._has_line:
            self._end_line()
        if self._data:
            self._inspect_event()
            self._data.clear()
        self.last = last_events.of_events((self._previous, self._last))
        return self.has_begun

    def _feed_decoded(self, chunk: bytes) -> None:
        if self._is_after_cr and chunk[:1] == b"\n":
            chunk = chunk[1:]
            self._is_after_cr = False
        if not chunk:
            return
        self._is_after_cr = chunk[-1] == _CR
        for line in chunk.splitlines(keepends=True):  # of bytes: at LF, CR and CRLF alone
            if self.done:
                return
            if line[-1] not in _ENDS:
                self._append_to_line(line)
                return
            self._append_to_line(line.rstrip(b"\r\n"))
            if self._has_line:
                self._end_line()
            else:
                self._end_event()

    def _append_to_line(self, part: bytes) -> None:
        if not part:
            return
        self._has_line = True
        room = MAX_BYTES - self._size
        if len(part) > room:
            self._is_line_cut = True
            self._tail = (self._tail + part)[-_MAX_TAIL:]
            part = part[:room]
        self._line += part
        self._size += len(part)

    def _end_line(self) -> None:
        line = bytes(self._line)
        self._line.clear()
        if not self._is_past_bom:
            self._is_past_bom = True
            line = line.removeprefix(_BOM)
        name, colon, value = line.partition(b":")
        value = value.removeprefix(b" ")
        # A line that was cut before its colon may be data as well.
        self._is_too_long |= self._is_line_cut and (name == b"data" or not colon)
        if name == b"data":
            self._data.append(value)
        else:
            self._size -= len(line)
            if name == b"event":
                self._event = value[:MAX_NAME]
        self._has_line = self._is_line_cut = False

    def _end_event(self) -> None:
        self._is_past_bom = True
        if self._data and not self._inspect_event():
            self.chunks += 1
        self._data.clear()
        self._event = self._tail = b""
        self._size = 0
        self._is_too_long = False

    def _keep(self, data: bytes) -> None:
        """Keep the last two events. The next one may be plain, and be kept as it is."""
        if self._is_too_long or len(data) > MAX_BYTES - _MAX_PLAIN:
            data = last_events.shortened(self._event, data, self._tail or data[-_MAX_TAIL:])
        has_room = len(self._last) + len(data) <= MAX_BYTES
        self._previous, self._last = self._last if has_room else b"", data

    def _inspect_event(self) -> bool:
        """Record the end or the first error, if the event is one. Return True for the end."""
        data = b"\n".join(self._data)
        if data.rstrip(b" \t") == _DONE:  # `openai` accepts blanks behind it
            self.done = True
            return True
        self._keep(data)
        if self.error is None:
            is_named = self._event == _ERROR_NAME
            found = None
            if self._is_too_long:
                found = error_body.parse_truncated_event(data)
            elif is_named or _ERROR_KEY in data:
                found = error_body.parse_error_event(data, is_named=is_named)
            self.error = error_body.Envelope() if found is None and is_named else found
        return False
