from __future__ import annotations

import pytest

from assisters_otel import catalog

# Source: the errors page of the API's documentation, its table of codes and its list of types.
STATUSES = {
    "invalid_api_key": 401,
    "api_key_revoked": 401,
    "origin_not_allowed": 403,
    "invalid_model": 400,
    "invalid_request": 400,
    "missing_parameter": 400,
    "invalid_parameter": 400,
    "context_length_exceeded": 400,
    "rate_limit_exceeded": 429,
    "tokens_exhausted": 429,
    "insufficient_funds": 402,
    "content_filtered": 400,
    "prompt_injection_detected": 400,
    "model_overloaded": 503,
    "internal_error": 500,
}
RETRYABLE = {"rate_limit_exceeded", "model_overloaded", "internal_error"}


def test_the_fifteen_codes_have_their_documented_status():
    assert {error.code: error.status for error in catalog.ERRORS} == STATUSES


def test_a_retry_helps_three_of_them():
    assert {error.code for error in catalog.ERRORS if error.retryable} == RETRYABLE


def test_each_error_s_type_is_one_of_the_seven():
    assert len(catalog.TYPES) == 7
    assert {error.type for error in catalog.ERRORS} == {row.type for row in catalog.TYPES}


def test_each_error_says_what_to_do_and_what_to_show():
    for error in catalog.ERRORS:
        assert error.advice.endswith(".")
        assert error.user_message.endswith(".")
        assert error.code not in error.user_message


def test_a_record_cannot_be_changed():
    with pytest.raises(AttributeError):
        catalog.ERRORS[0].retryable = True


def test_an_unknown_code_is_not_found():
    assert catalog.find("rate_limit_exceeded").status == 429
    assert catalog.find("api_error") is None
    assert catalog.find_type("server_error").retryable
    assert catalog.find_type("network_error") is None


@pytest.mark.parametrize(
    ("code", "type_", "status", "expected"),
    [
        ("tokens_exhausted", "rate_limit_error", 429, False),
        ("insufficient_funds", None, 429, False),
        ("rate_limit_exceeded", "invalid_request_error", 400, True),
        ("something_new", "tokens_exhausted_error", 429, False),
        ("something_new", "server_error", 400, True),
        ("something_new", "something_new", 429, True),
        (None, None, 408, True),
        (None, None, 409, True),
        (None, None, 429, True),
        (None, None, 500, True),
        (None, None, 529, True),
        (None, None, 400, False),
        (None, None, 404, False),
        ("", "", 503, True),
    ],
)
def test_whether_a_retry_helps_goes_by_code_then_type_then_status(code, type_, status, expected):
    assert catalog.retryable(code, type_, status) is expected
