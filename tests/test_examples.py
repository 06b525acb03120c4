"""Each example runs, as its first line says, in a process of its own."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from otlp import Collector

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(*arguments, **variables):
    outside = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "ASSISTERS_")) and not name.lower().endswith("_proxy")
    }
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**outside, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def quickstart(api, **variables):
    return run(
        EXAMPLES / "quickstart.py",
        ASSISTERS_BASE_URL=api.url,
        ASSISTERS_API_KEY="ask_test_1234567890",
        **variables,
    )


def test_every_example_is_run_here():
    tested = {"quickstart.py", "errors_in_tests.py", "see_retries.py"}

    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


def test_the_quickstart_has_ten_lines_at_most():
    (docstring, *code) = ast.parse((EXAMPLES / "quickstart.py").read_text("utf-8")).body

    assert isinstance(docstring, ast.Expr)
    assert sum(node.end_lineno - node.lineno + 1 for node in code) <= 10


@pytest.mark.parametrize(
    ("answer", "printed", "status", "code"),
    [("ok", "200\n", "UNSET", None), ("api_key_revoked", "401\n", "ERROR", "api_key_revoked")],
)
def test_the_quickstart_sends_a_span_that_says_what_happened(api, answer, printed, status, code):
    api.answers(answer)
    with Collector() as collector:
        done = quickstart(api, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        (span,) = collector.spans()

    assert (done.returncode, done.stdout) == (0, printed), done.stderr
    assert (span.name, span.status[0]) == ("GET /v1/models", status)
    assert span.attributes.get("error.code") == code
    assert span.attributes["assisters.request.id"].startswith("req_")
    assert span.resource["service.name"] == "quickstart"
    assert api.requests[0].headers["authorization"] == "Bearer ask_test_1234567890"


def test_the_quickstart_says_nothing_but_its_status_when_all_is_well(api):
    done = quickstart(api, OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="none")

    assert (done.returncode, done.stdout, done.stderr) == (0, "200\n", "")


def test_the_quickstart_shows_its_span_on_a_console(api):
    api.answers("api_key_revoked")

    done = quickstart(api, OTEL_TRACES_EXPORTER="console", OTEL_METRICS_EXPORTER="none")

    assert done.returncode == 0, done.stderr
    assert '"error.code": "api_key_revoked"' in done.stdout


def test_the_test_of_ones_own_error_handling_passes():
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLES / "errors_in_tests.py")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_the_retries_of_an_sdk_and_of_a_loop_are_seen():
    done = run(EXAMPLES / "see_retries.py", NO_PROXY="127.0.0.1")

    assert done.returncode == 0, done.stderr
    sdk, _, loop = done.stdout.partition("A loop of your own")
    *attempts, call = spans(sdk)
    assert [one.get("http.request.resend_count") for one in attempts] == [None, 1, 2]
    reasons = [one.get("assisters.retry.reason") for one in attempts]
    assert reasons == [None, "rate_limit_exceeded", "model_overloaded"]
    assert (call["assisters.call.outcome"], call["assisters.retry.count"]) == ("recovered", 2)
    first, again = spans(loop)
    assert first["error.code"] == again["assisters.retry.reason"] == "rate_limit_exceeded"
    assert again["assisters.retry.early"] is True


def spans(printed):
    """The attributes of each span that the example has printed."""
    told = []
    for line in printed.splitlines():
        if line.startswith(("POST ", "GET ", "chat ")):
            told.append({})
        elif " = " in line:
            name, _, value = line.strip().partition(" = ")
            told[-1][name] = ast.literal_eval(value)
    return told
