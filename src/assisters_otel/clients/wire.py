"""The beginning of an answer's body, read from below `http.client`, and put back."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any, Final

from assisters_otel import coding
from assisters_otel.clients.ahead import cut, raise_late

if TYPE_CHECKING:
    from collections.abc import Callable

READ_AHEAD_S: Final = 5.0
"""How long reading ahead goes on with a peer that drips, if the caller has set no limit."""

_LONGEST_LINE: Final = 4096


class _Replay(io.RawIOBase):
    """What has been read already, and then the rest."""

    def __init__(self, read: bytes, rest: Any, error: Exception | None) -> None:
        self._read = memoryview(read)
        self._rest = rest
        self._error = error

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        number: int = self._rest.fileno()
        return number

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), len(self._read))
        if size:
            buffer[:size], self._read = self._read[:size], self._read[size:]
            return size
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise_late(error)
            finally:
                del error  # its traceback knows this frame
        chunk = self._rest.read1(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        self._error = None
        if not self.closed:
            self._rest.close()
        super().close()


def beginning(response: Any, now: Callable[[], float], limit_s: float) -> bytes | None:
    """Read the beginning of a body of which nothing has been read.

    The reader finds the same bytes and, where the peer failed, the same exception at the same
    place.

    Args:
        response: The `http.client.HTTPResponse`.
        now: A steady clock, in seconds.
        limit_s: For how long, with a peer that drips.

    Returns:
        The body without its framing, up to `coding.MAX_BYTES`; None if there is none.
    """
    wire = response.fp
    if wire is None:
        return None
    end_s, read, body = now() + limit_s, bytearray(), bytearray()
    error: Exception | None = None
    handled = sys.exc_info()[1]

    def take(size: int) -> bytes:
        part: bytes = wire.read1(size)
        read.extend(part)
        return part

    def is_over() -> bool:
        return len(read) > coding.MAX_BYTES or now() >= end_s

    try:
        if response.chunked:
            _unframe(wire, read, body, is_over)
        else:
            left = coding.MAX_BYTES + 1 if response.length is None else response.length
            while left > 0 and not is_over() and (part := take(min(left, coding.MAX_BYTES))):
                left -= len(part)
            body = read
    except OSError as met:
        # The caller's; its read raises it. The frames of this one know the response.
        cut(met, handled)
        error = met.with_traceback(None)
    finally:  # whatever else went wrong, the reader finds what was read
        response.fp = io.BufferedReader(_Replay(bytes(read), wire, error))
    return bytes(body)


def _unframe(wire: Any, read: bytearray, body: bytearray, is_over: Callable[[], bool]) -> None:
    """Read chunks: to the last, to what is no chunk, or until it is enough."""
    while not is_over():
        line = wire.readline(_LONGEST_LINE)
        read.extend(line)
        try:
            left = int(line.partition(b";")[0], 16)
        except ValueError:  # no chunk: the reader will say so
            return
        if left == 0:
            while line not in (b"\r\n", b"\n", b""):
                line = wire.readline(_LONGEST_LINE)
                read.extend(line)
            return
        while left > 0:
            part = wire.read1(min(left, coding.MAX_BYTES))
            if not part or is_over():
                read.extend(part)
                return
            read.extend(part)
            body.extend(part)
            left -= len(part)
        read.extend(wire.readline(_LONGEST_LINE))
