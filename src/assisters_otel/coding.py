"""The content encodings of a body, undone within a limit. Pure."""

from __future__ import annotations

import importlib
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

MAX_BYTES: Final = 64 * 1024
"""A body is looked at up to here, raw and decompressed. An envelope has a few hundred bytes."""


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
    brotli = first_of("brotli", "brotlicffi")
    if brotli is None:
        return None
    try:
        output: bytes = brotli.Decompressor().process(body, output_buffer_limit=limit)
    except (brotli.error, TypeError):  # TypeError: a release that cannot bound its output
        return None
    return output


def _zstd(body: bytes, limit: int) -> bytes | None:
    zstd = first_of("compression.zstd", "zstandard")
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


def first_of(*modules: str) -> ModuleType | None:
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


def decompress(body: bytes, content_encoding: str) -> bytes | None:
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
