"""Reads the beginning of a failed answer's body before urllib3 does, and puts it back.

urllib3 and `http.client` alone know where a body ends, and whether there is one. So a copy of
urllib3's response does the reading, from a `_Tap` on the connection's reader. The tap keeps the
bytes as they came over the wire, framing included. Afterwards the original reads them from a
`_Replay`, and then goes on with the connection. An exception of the connection is raised again, at
the same place.
"""

from __future__ import annotations

import io
import sys
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Final

from assisters_otel.api.limits import MAX_BYTES
from assisters_otel.clients.read_ahead import drop_handled_context, find_foreign, raise_in_reader

if TYPE_CHECKING:
    from collections.abc import Callable


READ_AHEAD_S: Final = 5.0
"""The limit of reading ahead in seconds, with a peer that sends slowly, if the caller has none."""


class _EnoughError(Exception):
    """The limit of bytes or of time is reached."""


class _Replay(io.RawIOBase):
    """A reader of the bytes that were read ahead, and then of the connection."""

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
                raise_in_reader(error)
            finally:
                del error  # its traceback refers to this frame
        chunk = self._rest.read1(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        self._error = None
        if not self.closed:
            self._rest.close()
        super().close()


class _Tap:
    """A connection's reader that keeps the bytes which the copied response reads.

    It reads no more from the connection than it is asked for.

    Attributes:
        read_already: The bytes that have been read.
        error: The exception that the connection has raised, or None.
    """

    def __init__(self, wire: Any, is_over: Callable[[bytearray], bool]) -> None:
        self.read_already = bytearray()
        self.error: Exception | None = None
        self._wire = wire
        self._is_over = is_over

    def read1(self, size: int = -1) -> bytes:
        return self._read_through(self._wire.read1, size)

    def readline(self, limit: int = -1) -> bytes:
        return self._read_through(self._wire.readline, limit)

    def read(self, size: int = -1) -> bytes:
        parts: list[bytes] = []
        left = size
        while left:
            try:
                part = self.read1(min(left, MAX_BYTES) if left > 0 else MAX_BYTES)
            except Exception:
                if parts:  # the next read raises the exception again
                    break
                raise
            if not part:
                break
            parts.append(part)
            left -= len(part) if left > 0 else 0
        return b"".join(parts)

    def readinto(self, buffer: Any) -> int:
        part = self.read1(len(buffer))
        buffer[: len(part)] = part
        return len(part)

    def _read_through(self, step: Callable[[int], bytes], size: int) -> bytes:
        if self.error is not None:
            raise self.error
        if self._is_over(self.read_already):
            raise _EnoughError
        try:
            part = step(size)
        except Exception as error:
            self.error = error
            raise
        self.read_already += part
        return part

    def flush(self) -> None:
        """Do nothing: this is no writer."""

    def close(self) -> None:
        """Leave the connection open: it belongs to the original response."""


def peek(response: Any, now: Callable[[], float], limit_s: float) -> bytes | None:
    """Read the beginning of a body of which nothing has been read.

    The caller's read gets the same bytes. Where the peer failed, it gets the same exception at the
    same place.

    Args:
        response: The response of urllib3.
        now: A steady clock, in seconds.
        limit_s: The limit of time with a peer that sends slowly, in seconds.

    Returns:
        The body without its framing, up to about `limits.MAX_BYTES`; None if there is none.

    Raises:
        BaseException: A foreign exception, as `foreign_exceptions` knows it.
    """
    original = response._original_response  # noqa: SLF001 - as `http.client` has answered
    wire = getattr(original, "fp", None)  # a mock's, as of `responses`, has none
    if wire is None or response._fp is not original:  # noqa: SLF001 - what urllib3 reads from
        return None
    end_s = now() + limit_s
    tap = _Tap(wire, lambda read: len(read) > MAX_BYTES or now() >= end_s)
    body, handled = bytearray(), sys.exc_info()[1]
    foreign: BaseException | None = None
    errors = sys.modules["urllib3.exceptions"].HTTPError, HTTPException, OSError, _EnoughError
    try:
        for part in _copy_reading_from(response, original, tap).stream(
            MAX_BYTES, decode_content=False
        ):
            body += part
    except errors as raised:  # it belongs to the caller, whose own read raises it
        foreign = find_foreign(tap.error or raised, handled)
    finally:  # in each case the caller reads the bytes that were read here
        error = tap.error if foreign is None else None
        if error is not None:
            drop_handled_context(error, handled)
            error.__traceback__ = None  # its frames refer to the response
        original.fp = io.BufferedReader(_Replay(bytes(tap.read_already), wire, error))
        del handled, error
    if foreign is not None:
        raise foreign
    return bytes(body)


def _copy_reading_from(response: Any, original: Any, tap: _Tap) -> Any:
    """Return a copy of a response that reads from *tap*, and has no connection to give back."""
    answered = _copy(original, fp=tap)
    return _copy(response, _fp=answered, _original_response=answered, _pool=None, _connection=None)


def _copy(thing: Any, **changes: Any) -> Any:
    """Return a copy of an object with some attributes changed.

    The copy gets all attributes at once: an unchanged copy would close the connection when dropped.
    """
    kind: Any = type(thing)
    copy = kind.__new__(kind)
    vars(copy).update({**vars(thing), **changes})
    return copy
