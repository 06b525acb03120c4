"""What the lines of a span say, from attributes alone."""

from __future__ import annotations

import os

import pytest
from rich.console import Console

import warm
from assisters_otel import catalog
from assisters_otel.cli import span_text

FAILED = {"http.response.status_code": 429, "error.code": "tokens_exhausted",
          "error.type": "tokens_exhausted_error", "assisters.error.retryable": False}  # fmt: skip


def lines(text):
    console = Console(width=200)
    with console.capture() as captured:
        console.print(text)
    return captured.get().splitlines()


def test_a_command_that_shows_spans_needs_no_client_and_no_web_server():
    code = (
        "import sys, assisters_otel.cli.span_text\n"
        "print({'aiohttp', 'httpx', 'openai', 'requests', 'starlette', 'uvicorn'} & {*sys.modules})"
    )

    assert warm.run("-c", code, env=os.environ).stdout == "set()\n"


def test_the_advice_for_a_code_is_shown_once():
    advised = set()
    first, second = (lines(span_text.attempt_text("GET", FAILED, advised)) for _ in range(2))

    advice = f"to do: {catalog.find('tokens_exhausted').advice}"
    assert first == [*second, advice]
    assert second == ["429 tokens_exhausted  GET", "type tokens_exhausted_error, retryable no"]
    assert advised == {"tokens_exhausted"}


@pytest.mark.parametrize(
    ("attributes", "head"),
    [
        ({"http.response.status_code": 200}, "200 ok  GET"),
        ({"http.status_code": 502, "error.type": "502"}, "502  GET"),
        ({"error.type": "ReadTimeout"}, "no answer ReadTimeout  GET"),
        ({}, "cancelled  GET"),
    ],
)
def test_an_attempt_is_named_by_its_status_and_its_error(attributes, head):
    assert lines(span_text.attempt_text("GET", attributes, set())) == [head]


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({}, ["chat [m]"]),
        ({"assisters.call.outcome": "ok"}, ["ok  chat [m]"]),
        (
            {"assisters.call.outcome": "failed", "assisters.retry.count": 1,
             "assisters.retry.wait": 0.5},
            ["failed  chat [m]", "1 retry, 0.50 s between the attempts"],
        ),
        (
            {"assisters.stream.outcome": "truncated", "error.type": "truncated",
             "assisters.stream.chunks": 3},
            ["truncated  chat [m]", "stream truncated, 3 chunks"],
        ),
        (
            {"assisters.call.outcome": "failed", "assisters.stream.outcome": "error",
             "error.type": "server_error", "assisters.stream.chunks": 3},
            ["failed server_error  chat [m]", "stream error, 3 chunks"],
        ),
    ],
)  # fmt: skip
def test_a_call_is_named_by_its_outcome_and_a_span_that_is_none_by_its_name(attributes, told):
    assert lines(span_text.call_text("chat [m]", attributes)) == told
