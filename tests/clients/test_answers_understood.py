"""What an answer says is understood as its client understands it, and alike for every client."""

from __future__ import annotations

import contextlib
import gzip
import zlib

import brotli
import pytest
import zstandard

from memory import watching
from raw_server import RawServer

REFUSAL = b'{"error": {"type": "server_error", "code": "internal_error", "message": "m"}}'
HALF = len(REFUSAL) // 2


def members(compress):
    """Compress in two parts, one behind the other."""
    return compress(REFUSAL[:HALF]) + compress(REFUSAL[HALF:])


def zstd(data):
    return zstandard.ZstdCompressor().compress(data)


CODINGS = {
    "utf-8": REFUSAL,
    "UTF8": REFUSAL,
    "none": REFUSAL,
    "identity": REFUSAL,
    "binary, identity": REFUSAL,
    "application/json": REFUSAL,
    "gzip": gzip.compress(REFUSAL),
    "gzip, utf-8": gzip.compress(REFUSAL),
    "GZip": gzip.compress(REFUSAL),
    "x-gzip": gzip.compress(REFUSAL),
    "gzip of members": members(gzip.compress),
    "gzip and what is none": gzip.compress(REFUSAL) + b"\0" * 9,
    "deflate": zlib.compress(REFUSAL),
    "br": brotli.compress(REFUSAL),
    "zstd": zstd(REFUSAL),
    "zstd of frames": members(zstd),
    "gzip, br": brotli.compress(gzip.compress(REFUSAL)),
}


# Where the client itself cannot read what came, nobody can.
NOT_READ = {
    ("requests", "gzip, utf-8"),
    ("aiohttp", "gzip and what is none"),
    ("aiohttp", "zstd"),
    ("aiohttp", "zstd of frames"),
}


@pytest.mark.sampled
@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("coding", CODINGS)
def test_a_code_is_found_whatever_its_body_is_wrapped_in(api, memory, anyone, coding):
    name = coding.partition(" of ")[0].partition(" and ")[0]
    headers = {"content-encoding": name, "content-type": "application/json"}
    api.answers(status=500, body=CODINGS[coding], headers=headers)

    with contextlib.suppress(anyone.broken):
        anyone.send("GET", f"{api.url}/models")

    found = memory.attempt().attributes.get("error.code")
    assert found == "internal_error" or (str(anyone), coding) in NOT_READ


def test_of_a_header_that_comes_twice_the_first_counts(memory, anyone):
    lines = [
        b"HTTP/1.1 429 Slow",
        b"X-Request-ID: req_first",
        b"x-request-id: req_second",
        b"Retry-After: 7",
        b"Retry-After: 8",
        b"X-Processing-Time-Ms: 40",
        b"X-Processing-Time-Ms: 50",
        b"X-RateLimit-Limit-RPM: 100",
        b"X-RateLimit-Limit-RPM: 200",
        b"Content-Length: 0",
    ]
    with RawServer() as server, watching(server, memory):
        server.answer = b"\r\n".join([*lines, b"", b""]), False
        anyone.send("GET", f"{server.url}/asked")

    told = memory.attempt().attributes
    assert told["assisters.request.id"] == "req_first"
    assert told["assisters.retry_after"] == 7
    assert told["assisters.server.duration"] == 0.04
    assert told["assisters.ratelimit.requests.limit"] == 100
