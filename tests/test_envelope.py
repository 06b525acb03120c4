from __future__ import annotations

import gzip
import json
import sys
import time
import zlib
from email.utils import formatdate

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from assisters_otel.api import error_body, redaction
from assisters_otel.api.content_encoding import decode_body
from assisters_otel.api.error_body import Envelope
from assisters_otel.api.headers import (
    header_integer,
    header_text,
    known_headers,
    rate_limit_reset_s,
    retry_after_s,
)
from assisters_otel.api.limits import MAX_BYTES, MAX_VALUE

NOW = 1_800_000_000.0
ANY = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def test_the_documented_envelope_is_read():
    body = {"error": {"message": "m", "type": "t", "code": "c", "param": "p"}}

    assert error_body.parse_error_body(json.dumps(body).encode()) == Envelope("t", "c", "p", "m")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", None),
        (b"<html>Bad Gateway</html>", None),
        (b'{"error": {"mess', None),
        (b"[1, 2]", None),
        (b"null", None),
        (b'"error"', None),
        (b"{}", None),
        (b'{"error": null}', None),
        (b'{"error": ["a"]}', None),
        (b'{"error": "plain"}', Envelope(message="plain")),
        (b'{"error": {}}', Envelope()),
        (b'{"error": {"code": null, "type": ""}}', Envelope()),
        (b'{"error": {"code": " ", "type": "\\n"}}', Envelope()),
        (b'{"error": {"code": 7, "type": ["t"], "param": {}, "message": true}}', Envelope()),
        (b'\xef\xbb\xbf{"error": {"code": "bom"}}', Envelope(code="bom")),
        (b'{"error": {"code": "c", "message": "\xff"}}', Envelope(code="c", message="\ufffd")),
        (b'{"error": {"code": "a\\ud800b"}}', Envelope(code="a\ufffdb")),
        (b'{"error": {"code": "a\\u0000b\\nc"}}', Envelope(code="a\ufffdb c")),
        (b'{"error": {"code": "first", "code": "last"}}', Envelope(code="last")),
        (b'{"error": {"code": "c", "n": NaN, "i": 1e999}}', Envelope(code="c")),
        (b'{"error": {"code": "c", "n": ' + b"9" * 5000 + b"}}", None),
        (b"[" * 60_000, None),
        (b'{"error":' * 7_000, None),
        (b'{"error": "' + b"x" * MAX_BYTES + b'"}', None),
    ],
)
def test_what_is_no_envelope_is_a_value(body, expected):
    if sys.version_info < (3, 10, 7) and b"9" * 5000 in body:
        expected = Envelope(code="c")  # this Python reads integers of any length
    assert error_body.parse_error_body(body) == expected


@given(st.binary() | ANY.map(lambda value: json.dumps({"error": value}).encode()))
def test_no_body_raises(body):
    error_body.parse_error_body(body)


@given(
    st.fixed_dictionaries(
        {name: st.text(st.characters()) for name in ("type", "code", "param", "message")}
    )
)
def test_every_field_can_be_encoded_and_is_short(fields):
    parsed = error_body.parse_error_body(json.dumps({"error": fields}).encode())

    for name, value in parsed._asdict().items():
        if value is not None:
            clean = redaction.clean(value) if name == "message" else value
            AnyValue(string_value=clean)
            assert clean.isprintable()
            assert len(clean) <= MAX_VALUE


@pytest.mark.parametrize(
    "secret",
    [
        "ask_live_0123456789abcdef",
        "sk-proj-0123456789abcdef",
        "asst_sk_0123456789",
        "Bearer 0123456789.abc/def=",
        "bearer   0123456789",
        "Bearer Bearer 0123456789",
        "Bearer%20bearer+0123456789",
        'Bearer "0123456789"',
        "Bearer '0123456789'",
        "sk-Bearer 0123456789",
        "Bearer xBearer 0123456789",
    ],
)
@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "key={}",
        "'{}'",
        "({})",
        "a {} b",
        "b'{}\\n'",
        "x_{}",
        "k%3D{}",
        "%253D{}",
        r"\n{}",
        r"\x00{}",
        r"\u003d{}",
        "%2F{}",
    ],
)
def test_a_key_is_masked_wherever_it_stands(secret, around):
    masked = redaction.clean(around.format(secret))

    assert redaction.REDACTED in masked
    assert "0123456789" not in masked


@pytest.mark.parametrize("text", ["bearer+", "bearer ", "bearer", " bearer%20'", "ask_", "sk-a "])
@pytest.mark.parametrize("end", ["", "'", " ", "+"])
def test_what_looks_like_many_keys_is_masked_in_no_time(text, end):
    began_s = time.process_time()
    redaction.redact("bearer " + text * 20_000 + end)

    assert time.process_time() - began_s < 1


@pytest.mark.parametrize(
    "text", ["task_1234567890", "risk-1234567890", "req_0123456789", "a ask b"]
)
def test_what_is_no_key_is_not_masked(text):
    assert redaction.clean(text) == text


@pytest.mark.parametrize("path", ["/v1/agent/stream", "/gateway/v1/agent/stream/"])
def test_the_agent_s_prompt_is_masked_in_any_text(path):
    text = f"cannot reach 'https://host{path}?prompt=a+secret&x=1' today"

    assert redaction.redact(text) == f"cannot reach 'https://host{path}?REDACTED today"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://REDACTED:REDACTED@gw.example/v1", "http://REDACTED:REDACTED@gw.example/v1"),
        ("http://REDACTED:REDACTED@joe:planted@gw.example/v1", "http://REDACTED@gw.example/v1"),
        ("http://joe:planted@gw.example/v1", "http://REDACTED@gw.example/v1"),
    ],
)
def test_what_opentelemetry_writes_for_a_password_stays(url, expected):
    assert redaction.redact(url) == expected


@pytest.mark.parametrize("header", ["Bearer \\nask_0123456789", "Basic 0123456789", "x"])
def test_a_header_that_h11_refuses_is_masked_whatever_it_is(header):
    masked = redaction.redact(f"LocalProtocolError: Illegal header value b'{header}\\n'")

    assert masked == "LocalProtocolError: Illegal header value REDACTED"


def test_an_envelope_s_message_is_in_no_repr():
    assert "typed" not in repr(Envelope("t", "c", "p", "what somebody typed"))


def test_a_key_that_the_cut_would_part_is_masked_first():
    text = "x" * (MAX_VALUE - 8) + " ask_0123456789abcdef"

    assert "ask_" not in redaction.clean(text)


@pytest.mark.parametrize(
    ("compress", "encoding"),
    [
        (gzip.compress, b"gzip"),
        (gzip.compress, b"x-gzip"),
        (gzip.compress, b" GZip "),
        (zlib.compress, b"deflate"),
        (lambda body: zlib.compress(body)[2:-4], b"deflate"),
        (lambda body: gzip.compress(gzip.compress(body)), b"gzip, gzip"),
        (lambda body: gzip.compress(body[:1]) + gzip.compress(body[1:]), b"gzip"),
        (lambda body: gzip.compress(body) + b"\0 no member", b"gzip"),
        (lambda body: gzip.compress(body) + b"\x1f\x8b no member", b"gzip"),
        (brotli.compress, b"br"),
        (zstandard.compress, b"zstd"),
        (lambda body: zstandard.compress(body[:1]) + zstandard.compress(body[1:]), b"zstd"),
        (gzip.compress, b"identity, gzip, utf-8"),
        (lambda body: body, b""),
        (lambda body: body, b"identity"),
        (lambda body: body, b"utf-8"),
    ],
)
def test_an_encoding_is_undone(compress, encoding):
    assert decode_body(compress(b"{}"), encoding) == b"{}"


def test_what_is_no_brotli_or_zstd_or_too_much_is_none():
    assert decode_body(b"no", b"br") is None
    assert decode_body(b"no", b"zstd") is None
    bomb = b"x" * 9_000_000
    assert decode_body(brotli.compress(bomb), b"br") is None
    assert decode_body(zstandard.compress(bomb), b"zstd") is None


@pytest.mark.parametrize("encoding", [b"br", b"zstd"])
def test_an_encoding_that_the_client_cannot_undo_is_none(encoding, monkeypatch):
    for module in ("brotli", "brotlicffi", "compression.zstd", "zstandard"):
        monkeypatch.setitem(sys.modules, module, None)

    assert decode_body(b"{}", encoding) is None


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"not gzip", b"gzip"),
        (b"{}", b"gzip, gzip, gzip, gzip"),
    ],
)
def test_what_cannot_be_undone_is_none(body, encoding):
    assert decode_body(body, encoding) is None


def test_a_bomb_is_none():
    assert decode_body(gzip.compress(b"x" * 50_000_000), b"gzip") is None


@given(st.binary(max_size=200), st.sampled_from([b"gzip", b"deflate", b"br", b"zstd", b"gzip, br"]))
def test_no_compressed_body_raises(body, encoding):
    decode_body(body, encoding)


def test_headers_are_picked_in_any_case_and_the_first_counts():
    headers = [(b"X-Request-Id", b"1"), (b"x-request-id", b"2"), (b"Server", b"x")]

    assert known_headers(headers) == {b"x-request-id": b"1"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"0", 0.0),
        (b" 7.5 ", 7.5),
        (b"120", 120.0),
        (None, None),
        (b"", None),
        (b"NaN", None),
        (b"inf", None),
        (b"-1", None),
        (b"1e400", None),
        (b"1_0", None),
        (b"soon", None),
        (b"9" * 400, None),
        (formatdate(NOW + 90, usegmt=True).encode(), 90.0),
        (formatdate(NOW - 90, usegmt=True).encode(), 0.0),
        (b"Fri, 15 Jan 2027 08:01:30", 90.0),
        (b"Fri, 99 Jan 2027 99:99:99 GMT", None),
        (b"\xff\xfe", None),
    ],
)
def test_a_retry_after_is_seconds_or_none(value, expected):
    assert retry_after_s(value, NOW) == expected


@given(st.binary())
def test_no_retry_after_raises(value):
    seconds = retry_after_s(value, NOW)

    assert seconds is None or 0 <= seconds < float("inf")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"41", 41),
        (b" 41 ", 41),
        (str(2**63 - 1).encode(), 2**63 - 1),
        (str(2**63).encode(), None),
        (b"9" * 5000, None),
        (b"-1", None),
        (b"4.5", None),
        (b"", None),
        (None, None),
        ("٤".encode(), None),
    ],
)
def test_an_integer_beyond_int64_is_none(value, expected):
    assert header_integer(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"1800000030", 30.0), (b"1799999999", 0.0), (b"30", None), (b"x", None), (None, None)],
)
def test_a_reset_is_seconds_from_now(value, expected):
    assert rate_limit_reset_s(value, NOW) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"req_1", "req_1"), (b" req_1 ", "req_1"), (b"", None), (b" ", None), (None, None)],
)
def test_an_empty_header_is_none(value, expected):
    assert header_text(value) == expected


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"]
)
def test_an_envelope_is_read_in_each_encoding_that_the_clients_read(encoding):
    body = '{"error": {"code": "rate_limit_exceeded", "message": "é"}}'.encode(encoding)

    found = error_body.parse_sent_body(body, {})

    assert found is not None
    assert (found.code, found.message) == ("rate_limit_exceeded", "é")
