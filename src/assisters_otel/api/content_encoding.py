"""Content encodings: gzip, deflate, br and zstd, decoded within a limit.

Each encoding has one decoder, which is fed with chunks as they arrive. `decode_body` feeds it a
whole body, for the envelope; the scanner of an event stream feeds it chunk by chunk. It bounds the
output of each step, because a small body can expand to many megabytes.

For brotli and zstd the package is used that the client itself decodes with, if one is installed.
"""

from __future__ import annotations

import importlib
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from assisters_otel.api.limits import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import ModuleType


class Decoder(Protocol):
    """A decoder of one content encoding, fed with chunks as they arrive."""

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """The exceptions that `decode` raises for broken data."""

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the decoded bytes of the next chunk, `MAX_BYTES` or so at a time."""


def known_encodings(content_encoding: bytes) -> list[bytes]:
    """Return the encodings of a response, in the order in which they were applied.

    Args:
        content_encoding: The value of the header. A name that no client knows is left out: clients
            leave such a body as it is, and some gateways send ``utf-8``.
    """
    names = (name.strip().lower() for name in content_encoding.split(b","))
    return [name for name in names if name in _DECODERS]


def decoder_for(encoding: bytes) -> Decoder | None:
    """Return a new decoder of one of `known_encodings`, or None if no package decodes it."""
    return _DECODERS[encoding]()


def import_first(*modules: str) -> ModuleType | None:
    """Import and return the first of *modules* that is installed, or return None."""
    for module in modules:
        with suppress(ImportError):
            return importlib.import_module(module)
    return None


# A response usually has one encoding. The limit bounds the passes over a hostile one.
_MAX_LAYERS: Final = 3


def decode_body(body: bytes, content_encoding: bytes) -> bytes | None:
    """Decode a whole body. Holds at most twice `MAX_BYTES` of output.

    Args:
        body: The whole body, as sent.
        content_encoding: The value of the header, or empty.

    Returns:
        The decoded body. None if it is broken or longer than `MAX_BYTES`, or if no decoder of its
        encoding is installed.
    """
    layers = known_encodings(content_encoding)
    if len(layers) > _MAX_LAYERS:
        return None
    for encoding in reversed(layers):
        decoder = decoder_for(encoding)
        decoded = None if decoder is None else _decode_within_limit(decoder, body)
        if decoded is None:
            return None
        body = decoded
    return body


def _decode_within_limit(decoder: Decoder, body: bytes) -> bytes | None:
    output = bytearray()
    try:
        for piece in decoder.decode(body):
            output += piece
            if len(output) > MAX_BYTES:
                return None
    except decoder.errors:
        return None
    return bytes(output)


_GZIP: Final = 31
"""For zlib: 16 + 15, the gzip format alone."""

_GZIP_OR_ZLIB: Final = 47
"""For zlib: 32 + 15, the format is read from the header."""

_BARE: Final = -15
"""For zlib: a deflate stream without a header, which some servers send as ``deflate``."""

_HEADER_SIZE: Final = 2
"""The bytes that show which of the formats it is."""


class _ZlibDecoder:
    errors = (zlib.error,)

    def __init__(self) -> None:
        self._header: bytes | None = b""
        self._member = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._is_first = True
        self._is_over = False

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        if self._header is not None:
            self._header = chunk = self._header + chunk
            if len(chunk) < _HEADER_SIZE:
                return
            self._header = None
            if not _has_header(chunk):
                self._member = zlib.decompressobj(_BARE)
        piece = b""
        # A full piece may have a rest without any input.
        while (chunk or len(piece) == MAX_BYTES) and not self._is_over:
            try:
                piece = self._member.decompress(chunk, MAX_BYTES)
            except zlib.error:
                if self._is_first:
                    raise
                self._is_over = True  # bytes behind a member that are no member are not the body
                return
            yield piece
            chunk = self._member.unconsumed_tail
            if self._member.eof:
                chunk, piece = self._member.unused_data, b""
                self._member, self._is_first = zlib.decompressobj(_GZIP), False


def _has_header(start: bytes) -> bool:
    """Return True if a body starts as gzip or zlib does. Source: RFC 1952, 2.3.1; RFC 1950, 2.2."""
    if start.startswith(b"\x1f\x8b"):
        return True
    is_deflate = start[0] & 0x0F == 8  # noqa: PLR2004 - the number of the method
    return is_deflate and int.from_bytes(start[:_HEADER_SIZE], "big") % 31 == 0


class _BrotliDecoder:
    def __init__(self, brotli: ModuleType) -> None:
        self.errors = (brotli.error, TypeError)  # TypeError: this release cannot limit its output
        self._decompressor = brotli.Decompressor()

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        # `can_accept_more_data` is true while output is still held back, so it cannot be asked.
        while piece := self._decompressor.process(chunk, output_buffer_limit=MAX_BYTES):
            yield piece
            chunk = b""


_ZSTD_STEP: Final = 16
"""The bytes that a zstd decoder gets at once.

Not every package can limit the output of a step. But a few bytes hold few blocks."""


class _ZstdDecoder:
    def __init__(self, zstd: ModuleType) -> None:
        self.errors = (zstd.ZstdError, EOFError)
        is_standard = hasattr(zstd, "ZstdFile")  # `compression.zstd`; else the package zstandard
        new = zstd.ZstdDecompressor
        self._new_frame = new if is_standard else lambda: new().decompressobj()
        self._frame = self._new_frame()

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        for at in range(0, len(chunk), _ZSTD_STEP):
            step = chunk[at : at + _ZSTD_STEP]
            while step:
                yield self._frame.decompress(step)
                step = b""
                if self._frame.eof:
                    step, self._frame = self._frame.unused_data, self._new_frame()


def _brotli() -> Decoder | None:
    # A client asks for brotli only if one of the two is installed. Source: httpx, _decoders.
    brotli = import_first("brotli", "brotlicffi")
    return None if brotli is None else _BrotliDecoder(brotli)


def _zstd() -> Decoder | None:
    zstd = import_first("compression.zstd", "zstandard")
    return None if zstd is None else _ZstdDecoder(zstd)


_DECODERS: Final[Mapping[bytes, Callable[[], Decoder | None]]] = {
    b"gzip": _ZlibDecoder,
    b"x-gzip": _ZlibDecoder,
    b"deflate": _ZlibDecoder,
    b"br": _brotli,
    b"zstd": _zstd,
}
