"""Content encodings: gzip, deflate, br and zstd, decoded within a limit.

`decode_body` decodes a whole body, for the envelope. `decoder_for` decodes an event stream as it
arrives. Both bound the output of each step, because a small body can expand to many megabytes.

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


_BY_HEADER: Final = 47
"""For zlib: 32 + 15, the format (gzip or zlib) is read from the header."""

_WITHOUT_HEADER: Final = -15
"""For zlib: a bare deflate stream, which some servers send as ``deflate``."""

_GZIP: Final = b"\x1f\x8b"


def _decompress_zlib(body: bytes, limit: int) -> bytes | None:
    for wbits in (_BY_HEADER, _WITHOUT_HEADER):
        with suppress(zlib.error):
            stream = zlib.decompressobj(wbits)
            output = stream.decompress(body, limit)
            # The data may have further gzip members. Other bytes behind a member are not the body.
            while stream.unused_data[:2] == _GZIP and len(output) < limit:
                rest, stream = stream.unused_data, zlib.decompressobj(wbits)
                output += stream.decompress(rest, limit - len(output))
            return output
    return None


def _decompress_brotli(body: bytes, limit: int) -> bytes | None:
    # A client asks for brotli only if one of the two is installed. Source: httpx, _decoders.
    brotli = import_first("brotli", "brotlicffi")
    if brotli is None:
        return None
    try:
        output: bytes = brotli.Decompressor().process(body, output_buffer_limit=limit)
    except (brotli.error, TypeError):  # TypeError: this release cannot limit its output
        return None
    return output


def _decompress_zstd(body: bytes, limit: int) -> bytes | None:
    zstd = import_first("compression.zstd", "zstandard")
    if zstd is None:
        return None
    try:
        if hasattr(zstd, "ZstdFile"):
            output = b""
            while body and len(output) < limit:  # frame by frame
                stream = zstd.ZstdDecompressor()
                output += stream.decompress(body, max_length=limit - len(output))
                body = stream.unused_data
        else:
            reader = zstd.ZstdDecompressor().stream_reader(body, read_across_frames=True)
            output = reader.read(limit)
    except zstd.ZstdError:
        return None
    return output


def import_first(*modules: str) -> ModuleType | None:
    """Import and return the first of *modules* that is installed, or return None."""
    for module in modules:
        with suppress(ImportError):
            return importlib.import_module(module)
    return None


_DECOMPRESSORS: Final[Mapping[str, Callable[[bytes, int], bytes | None]]] = {
    "gzip": _decompress_zlib,
    "x-gzip": _decompress_zlib,
    "deflate": _decompress_zlib,
    "br": _decompress_brotli,
    "zstd": _decompress_zstd,
}


# A response usually has one encoding. The limit bounds the passes over a hostile one.
_MAX_LAYERS: Final = 3


def decode_body(body: bytes, content_encoding: str) -> bytes | None:
    """Decode a whole body. Holds at most `MAX_BYTES` and one byte of output.

    Args:
        body: The whole body, as sent.
        content_encoding: The header's value: the encodings in the order in which they were applied,
            or an empty string.

    Returns:
        The decoded body. None if it is broken or too large, or if no decoder of its encoding is
        installed. A name that no client knows is skipped: some gateways send ``utf-8``.
    """
    layers = [name.strip().lower() for name in content_encoding.split(",")]
    layers = [name for name in layers if name in _DECOMPRESSORS]
    if len(layers) > _MAX_LAYERS:
        return None
    for name in reversed(layers):
        output = _DECOMPRESSORS[name](body, MAX_BYTES + 1)
        if output is None or len(output) > MAX_BYTES:
            return None
        body = output
    return body


_ZSTD_STEP: Final = 16
"""The bytes that a zstd decoder gets at once.

Not every package can limit the output of a step. But a few bytes hold few blocks."""


class Decoder(Protocol):
    """A decoder of one content encoding, fed with chunks as they arrive."""

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """The exceptions that `decode` raises for broken data."""

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the decoded bytes of the next chunk, `MAX_BYTES` or so at a time."""


def decoder_for(encoding: bytes) -> Decoder | None:
    """Return a new decoder of *encoding*, or None if it is unknown or no package decodes it."""
    if encoding in {b"gzip", b"x-gzip", b"deflate"}:
        return _GzipDecoder()
    if encoding == b"br" and (brotli := import_first("brotli", "brotlicffi")):
        return _BrotliDecoder(brotli)
    if encoding == b"zstd" and (zstd := import_first("compression.zstd", "zstandard")):
        return _ZstdDecoder(zstd)
    return None


class _GzipDecoder:
    errors = (zlib.error,)

    def __init__(self) -> None:
        self._object = zlib.decompressobj(_BY_HEADER)
        self._is_new = True

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        try:
            yield self._object.decompress(chunk, MAX_BYTES)
        except zlib.error:
            if not self._is_new:
                raise
            self._object = zlib.decompressobj(_WITHOUT_HEADER)
            yield self._object.decompress(chunk, MAX_BYTES)
        self._is_new = False
        while self._object.unconsumed_tail:
            yield self._object.decompress(self._object.unconsumed_tail, MAX_BYTES)


class _BrotliDecoder:
    def __init__(self, brotli: ModuleType) -> None:
        self.errors = (brotli.error, TypeError)  # TypeError: this release cannot limit its output
        self._decompressor = brotli.Decompressor()

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        # `can_accept_more_data` is true while output is still held back, so it cannot be asked.
        while piece := self._decompressor.process(chunk, output_buffer_limit=MAX_BYTES):
            yield piece
            chunk = b""


class _ZstdDecoder:
    def __init__(self, zstd: ModuleType) -> None:
        self.errors = (zstd.ZstdError, EOFError)
        decompressor = zstd.ZstdDecompressor()
        is_standard = hasattr(zstd, "ZstdFile")  # `compression.zstd`; else the package zstandard
        self._decompressor = decompressor if is_standard else decompressor.decompressobj()

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        for at in range(0, len(chunk), _ZSTD_STEP):
            yield self._decompressor.decompress(chunk[at : at + _ZSTD_STEP])
