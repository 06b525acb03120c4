"""The look for planted secrets finds them wherever they would leave, and only there."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from opentelemetry.trace import StatusCode

import leaks
from memory import Memory
from otlp import Collector
from scripts import run

TESTS = str(Path(__file__).parent)
BARE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # no plug-in takes its time to be loaded
SECRETS = [
    leaks.KEY,
    leaks.EMAIL,
    leaks.MESSAGE,
    "Authorization: Bearer xyz",
    "bearer%20xyz",
    "a planted-prompt",
    "what somebody typed",
    "what+somebody+typed",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "put",
    [
        lambda span, secret: span.update_name(secret),
        lambda span, secret: span.set_attribute("x", secret),
        lambda span, secret: span.set_attribute("x", ["y", secret]),
        lambda span, secret: span.set_status(StatusCode.ERROR, secret),
        lambda span, secret: span.add_event(secret),
        lambda span, secret: span.add_event("x", {"x": secret}),
        lambda span, secret: span.add_link(span.get_span_context(), {"x": secret}),
    ],
)
def test_a_secret_is_found_anywhere_in_a_span(memory, put, secret):
    with memory.tracer_provider.get_tracer("x").start_as_current_span("x") as span:
        put(span, secret)

    assert leaks.take()


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_found_in_a_metric(secret):
    memory = Memory()
    meter = memory.meter_provider.get_meter("x")
    meter.create_counter("x").add(1, {"x": secret})
    meter.create_histogram("y").record(1, {"x": secret})
    memory.shutdown()

    assert len(leaks.take()) == 2


def test_a_secret_is_found_in_what_a_collector_receives():
    with Collector() as collector, httpx.Client(trust_env=False) as client:
        for secret in SECRETS:
            client.post(collector.endpoint + "/v1/logs", content=b"\x0a\x07" + secret.encode())

    found = leaks.take()
    assert len(found) == len(SECRETS)
    assert all(one.startswith("POST /v1/logs") for one in found)


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_found_in_the_log(secret):
    log = logging.getLogger("assisters_otel")
    log.warning("it said %s", secret)
    log.warning("x", extra={"error.code": secret})
    log.warning("x", exc_info=ValueError(secret))

    assert len(leaks.take()) == 3


def test_a_message_that_was_asked_for_is_no_leak_and_a_key_in_it_is_one(memory):
    tracer = memory.tracer_provider.get_tracer("x")
    tracer.start_span("x", attributes={"assisters.error.message": "planted, REDACTED"}).end()
    assert leaks.take() == []

    tracer.start_span("x", attributes={"assisters.error.message": leaks.KEY}).end()
    assert leaks.take()


def test_what_a_run_exports_is_no_leak(memory):
    told = {"error.code": "rate_limit_exceeded", "assisters.request.id": "req_1", "x": "REDACTED"}
    memory.tracer_provider.get_tracer("x").start_span("GET /v1/models", attributes=told).end()

    assert leaks.take() == []


def test_every_envelope_of_the_fake_api_has_a_planted_message(api):
    api.answers("invalid_model", "rate_limit_exceeded")
    for _ in range(2):
        told = httpx.get(api.url + "/models", trust_env=False).json()
        assert told["error"]["message"] == leaks.MESSAGE


def test_a_script_in_which_something_leaked_fails():
    done = run("import leaks; leaks.look('planted', 'a span')", PYTHONPATH=TESTS)

    assert done.code == 70
    assert "a span: 'planted'" in done.err


def test_a_test_in_which_something_leaked_fails(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import logging\n"
        "from memory import Memory\n"
        "def test_one():\n"
        "    Memory().tracer_provider.get_tracer('x').start_span('planted').end()\n"
        "def test_two(): logging.getLogger('assisters_otel').warning('planted')\n"
        "def test_three(): pass\n",
        "utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "leak_check", tmp_path],
        env=os.environ | {"PYTHONPATH": TESTS, **BARE},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "3 passed, 2 errors" in done.stdout, done.stdout + done.stderr
    assert "span planted" in done.stdout
    assert "log: " in done.stdout
