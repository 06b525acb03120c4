"""Watches an event stream as it passes. Pure: bytes in, and what they said out."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Final

from assisters_otel import envelope

if TYPE_CHECKING:
    from collections.abc import Mapping

# A line of its own. Inside an event's JSON a line break is escaped, so a model that writes
# about it does not match.
_DONE: Final = re.compile(rb"[\r\n]data: ?\[DONE\]")
_LONGEST: Final = len(b"\ndata: [DONE]")


class Events:
    """What has passed of one event stream.

    Attributes:
        done: Whether its ``data: [DONE]`` was among it.
    """

    __slots__ = ("_inflate", "_tail", "done")

    def __init__(self, content_encoding: bytes) -> None:
        """Begin with nothing.

        Args:
            content_encoding: The header's value; one that is not gzip or deflate hides
                what is said.
        """
        zipped = content_encoding.strip().lower() in {b"gzip", b"x-gzip", b"deflate"}
        # 32 + 15: gzip or zlib, by the header.
        self._inflate = zlib.decompressobj(47) if zipped else None
        self._tail = b"\n"
        self.done = False

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes, however they were cut."""
        if self.done:
            return
        if self._inflate is None:
            self._look(chunk)
            return
        while chunk and not self.done:
            try:
                self._look(self._inflate.decompress(chunk, envelope.MAX_BYTES))
            except zlib.error:
                return
            chunk = self._inflate.unconsumed_tail

    def _look(self, chunk: bytes) -> None:
        chunk = self._tail + chunk
        self.done = _DONE.search(chunk) is not None
        self._tail = chunk[-_LONGEST:]


def events(headers: Mapping[bytes, bytes]) -> Events | None:
    """Watch an answer's body if it is an event stream.

    Args:
        headers: What `envelope.pick` took.
    """
    if not envelope.is_event_stream(headers):
        return None
    return Events(headers.get(envelope.CONTENT_ENCODING, b""))
