"""The beginning of a body that urllib3 is to read: read by a twin of its response, and put back.

Where a body ends, and whether there is one, is for urllib3 and `http.client` to say.
"""

from __future__ import annotations

import io
import sys
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Final

from assisters_otel.api.limits import MAX_BYTES
from assisters_otel.clients.read_ahead import cut, find_foreign, raise_late

if TYPE_CHECKING:
    from collections.abc import Callable


READ_AHEAD_S: Final = 5.0
"""How long reading ahead goes on with a peer that drips, if the caller has set no limit."""


class _EnoughError(Exception):
    """It is enough, or has taken long enough."""


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


class _Tap:
    """A connection's reader that keeps what is read from it, in the twin's hands.

    It takes no more from the connection than what it is asked for.

    Attributes:
        read_already: What has been read.
        error: What the connection has raised.
    """

    def __init__(self, wire: Any, is_over: Callable[[bytearray], bool]) -> None:
        self.read_already = bytearray()
        self.error: Exception | None = None
        self._wire = wire
        self._is_over = is_over

    def read1(self, size: int = -1) -> bytes:
        return self._take(self._wire.read1, size)

    def readline(self, limit: int = -1) -> bytes:
        return self._take(self._wire.readline, limit)

    def read(self, size: int = -1) -> bytes:
        parts: list[bytes] = []
        left = size
        while left:
            try:
                part = self.read1(min(left, MAX_BYTES) if left > 0 else MAX_BYTES)
            except Exception:
                if parts:  # which the next reading raises again
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

    def _take(self, step: Callable[[int], bytes], size: int) -> bytes:
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
        """Do nothing: it is for reading."""

    def close(self) -> None:
        """Leave the connection open: it is the response's own."""


def beginning(response: Any, now: Callable[[], float], limit_s: float) -> bytes | None:
    """Read the beginning of a body of which nothing has been read.

    The reader finds the same bytes and, where the peer failed, the same exception at the same
    place.

    Args:
        response: urllib3's.
        now: A steady clock, in seconds.
        limit_s: For how long, with a peer that drips.

    Returns:
        The body without its framing, up to about `limits.MAX_BYTES`; None if there is none.

    Raises:
        BaseException: What is not of the connection, as `foreign_exceptions` knows it.
    """
    original = response._original_response  # noqa: SLF001 - as `http.client` has answered
    wire = original.fp
    if wire is None or response._fp is not original:  # noqa: SLF001 - what urllib3 reads from
        return None
    end_s = now() + limit_s
    tap = _Tap(wire, lambda read: len(read) > MAX_BYTES or now() >= end_s)
    body, handled = bytearray(), sys.exc_info()[1]
    theirs: BaseException | None = None
    errors = sys.modules["urllib3.exceptions"].HTTPError, HTTPException, OSError, _EnoughError
    try:
        for part in _twin(response, original, tap).stream(MAX_BYTES, decode_content=False):
            body += part
    except errors as met:  # the caller's: its own reading raises it
        theirs = find_foreign(tap.error or met, handled)
    finally:  # whatever went wrong, the reader finds what was read
        error = tap.error if theirs is None else None
        if error is not None:
            cut(error, handled)
            error.__traceback__ = None  # its frames know the response
        original.fp = io.BufferedReader(_Replay(bytes(tap.read_already), wire, error))
        del handled, error
    if theirs is not None:
        raise theirs
    return bytes(body)


def _twin(response: Any, original: Any, tap: _Tap) -> Any:
    """Copy a response, with what it reads from; the twin knows no connection to give back."""
    answered = _copy(original, fp=tap)
    return _copy(response, _fp=answered, _original_response=answered, _pool=None, _connection=None)


def _copy(thing: Any, **changes: Any) -> Any:
    """Copy an object with some changes; they come first, for one that is dropped closes itself."""
    kind: Any = type(thing)
    copy = kind.__new__(kind)
    vars(copy).update({**vars(thing), **changes})
    return copy
