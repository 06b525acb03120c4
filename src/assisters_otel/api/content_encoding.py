"""Content encodings: gzip, deflate, br and zstd, whole and as they arrive, within a limit."""

from __future__ import annotations

import importlib
import zlib
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from assisters_otel.api.limits import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import ModuleType


_GZIP: Final = b"\x1f\x8b"


def _inflate(body: bytes, limit: int) -> bytes | None:
    # 32 + 15: gzip or zlib, by the header. A bare deflate stream has none.
    for wbits in (47, -15):
        with suppress(zlib.error):
            stream = zlib.decompressobj(wbits)
            output = stream.decompress(body, limit)
            # A further member of gzip; what is none is no part of the body.
            while stream.unused_data[:2] == _GZIP and len(output) < limit:
                rest, stream = stream.unused_data, zlib.decompressobj(wbits)
                output += stream.decompress(rest, limit - len(output))
            return output
    return None


def _brotli(body: bytes, limit: int) -> bytes | None:
    # A client asks for brotli only if it has one of the two. Source: httpx, _decoders.
    brotli = import_first("brotli", "brotlicffi")
    if brotli is None:
        return None
    try:
        output: bytes = brotli.Decompressor().process(body, output_buffer_limit=limit)
    except (brotli.error, TypeError):  # TypeError: a release that cannot bound its output
        return None
    return output


def _zstd(body: bytes, limit: int) -> bytes | None:
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
    """Import the first of some modules that is installed."""
    for module in modules:
        with suppress(ImportError):
            return importlib.import_module(module)
    return None


_DECOMPRESSORS: Final[Mapping[str, Callable[[bytes, int], bytes | None]]] = {
    "gzip": _inflate,
    "x-gzip": _inflate,
    "deflate": _inflate,
    "br": _brotli,
    "zstd": _zstd,
}


# More layers than anybody sends; each costs a pass.
_MAX_LAYERS: Final = 3


def decode_body(body: bytes, content_encoding: str) -> bytes | None:
    """Undo a Content-Encoding, without ever holding more than `MAX_BYTES` of output.

    Args:
        body: The raw body, whole.
        content_encoding: The header's value, in the order in which it was applied,
            or an empty string.

    Returns:
        The body, or None if it is broken, too large, or in an encoding for which
        the client's own decoder is not installed. What no client knows is no encoding: some
        gateways write ``utf-8`` here.
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


# -- content encodings ------------------------------------------------------------------------


def _hidden(_: bytes) -> Iterable[bytes]:
    return ()


def decoder_for(
    encoding: bytes,
) -> tuple[Callable[[bytes], Iterable[bytes]] | None, tuple[type[Exception], ...]]:
    """Give what undoes an encoding, `MAX_BYTES` or so at a time, and what it raises."""
    if encoding in {b"", b"identity"}:
        return None, ()
    if encoding in {b"gzip", b"x-gzip", b"deflate"}:
        return _GzipDecoder().pieces, (zlib.error,)
    if encoding == b"br" and (brotli := import_first("brotli", "brotlicffi")):
        # TypeError: a release that cannot bound its output.
        return partial(_unbrotli, brotli.Decompressor()), (brotli.error, TypeError)
    if encoding == b"zstd" and (zstd := import_first("compression.zstd", "zstandard")):
        new = zstd.ZstdDecompressor()
        if not hasattr(zstd, "ZstdFile"):
            new = new.decompressobj()
        return partial(_unzstd, new), (zstd.ZstdError, EOFError)
    return _hidden, ()


class _GzipDecoder:
    def __init__(self) -> None:
        # 32 + 15: gzip or zlib, by the header. A bare deflate stream has none.
        self._object = zlib.decompressobj(47)
        self._is_new = True

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        try:
            yield self._object.decompress(chunk, MAX_BYTES)
        except zlib.error:
            if not self._is_new:
                raise
            self._object = zlib.decompressobj(-15)
            yield self._object.decompress(chunk, MAX_BYTES)
        self._is_new = False
        while self._object.unconsumed_tail:
            yield self._object.decompress(self._object.unconsumed_tail, MAX_BYTES)


class _Brotli(Protocol):
    def process(self, data: bytes, *, output_buffer_limit: int) -> bytes: ...


class _Zstd(Protocol):
    def decompress(self, data: bytes) -> bytes: ...


def _unbrotli(decompressor: _Brotli, chunk: bytes) -> Iterator[bytes]:
    # It says that it can take more while it still holds some of the output.
    while piece := decompressor.process(chunk, output_buffer_limit=MAX_BYTES):
        yield piece
        chunk = b""


def _unzstd(decompressor: _Zstd, chunk: bytes) -> Iterator[bytes]:
    # What it unpacks to at once cannot be bounded everywhere, but a few bytes hold few blocks.
    for at in range(0, len(chunk), _ZSTD_STEP):
        yield decompressor.decompress(chunk[at : at + _ZSTD_STEP])
