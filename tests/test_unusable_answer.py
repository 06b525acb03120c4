"""An answer with a status of success is judged by what it has, and not by a guess."""

from __future__ import annotations

import gzip
import json

import pytest

from assisters_otel.api.unusable_answer import BodyBeginning, error_in_result, is_page

ENVELOPE = {"error": {"type": "server_error", "code": "internal_error", "message": "no"}}


def error_of(body, *, chunk=7, **headers):
    beginning = BodyBeginning()
    for start in range(0, len(body), chunk):
        beginning.feed(body[start : start + chunk])
    return beginning.error(
        {name.replace("_", "-").encode(): value for name, value in headers.items()}
    )


def test_an_envelope_in_place_of_a_result_is_an_error():
    found = error_in_result(ENVELOPE)

    assert (found.type, found.code, found.message) == ("server_error", "internal_error", "no")
    assert error_in_result({"error": "a text"}).message == "a text"
    assert error_in_result({"error": {"code": "x"}, "status": 500}).code == "x"


@pytest.mark.parametrize("member", ["id", "object", "choices", "data"])
def test_a_result_may_have_an_error_among_its_members(member):
    assert error_in_result(ENVELOPE | {member: None}) is None


@pytest.mark.parametrize("error", [None, "", {}, [], 0, False, 17, ["x"], True])
def test_an_error_that_is_neither_object_nor_text_is_none(error):
    assert error_in_result({"error": error, "text": "Hello."}) is None


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'"error"', b'{"error": ']
)
def test_a_body_that_is_no_json_object_has_no_error(body):
    assert error_of(body) is None


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_the_error_is_found_however_the_body_is_cut(chunk):
    assert error_of(json.dumps(ENVELOPE).encode(), chunk=chunk).code == "internal_error"


def test_a_compressed_body_is_decoded():
    body = gzip.compress(json.dumps(ENVELOPE).encode())

    assert error_of(body, content_encoding=b"gzip").code == "internal_error"
    assert error_of(body) is None


def test_a_long_body_is_kept_in_part_and_its_error_is_found_there():
    long = json.dumps({"error": {"code": "internal_error", "message": "x" * 10**6}}).encode()
    beginning = BodyBeginning()
    beginning.feed(long)
    beginning.feed(long)

    assert beginning.size <= (1 << 16) + 1
    assert beginning.error({}).code == "internal_error"


def test_a_long_result_is_no_error():
    assert error_of(json.dumps({"id": "x", "text": "error" * 10**5}).encode(), chunk=1000) is None


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"text/html", True),
        (b" Text/HTML; charset=utf-8", True),
        (b"application/json", False),
        (b"text/plain", False),
        (b"application/xhtml+xml", False),
        (None, False),
    ],
)
def test_a_page_is_known_by_its_type(content_type, expected):
    headers = {} if content_type is None else {b"content-type": content_type}

    assert is_page(headers) is expected
