"""What a module of tests would leave to the next one is seen."""

from __future__ import annotations

import contextvars
import logging
import os
import sys

import httpx
import pytest
from opentelemetry import context, propagate

import left_behind
from assisters_otel.attempts.control_flow import units

CHANGES = {
    "context variable current_context": lambda _: context.attach(context.set_value("a", "b")),
    "variable ASSISTERS_LEFT": lambda patch: patch.setenv("ASSISTERS_LEFT", "1"),
    "httpx.HTTPTransport.handle_request": lambda patch: patch.setattr(
        httpx.HTTPTransport, "handle_request", lambda *_: None
    ),
    "logger assisters_otel: handlers": lambda patch: patch.setattr(
        logging.getLogger("assisters_otel"), "handlers", []
    ),
    "logger None: level": lambda patch: patch.setattr(logging.getLogger(), "level", 1),
    "running units of work": lambda patch: patch.setattr(units, "_running", ("one",)),
    "sys.path": lambda patch: patch.syspath_prepend("somewhere"),
    "the propagator": lambda patch: patch.setattr(propagate, "_HTTP_TEXT_FORMAT", 0),
    "the working folder": lambda patch: patch.chdir("/"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_test_leaves_is_named(name):
    def left():
        with pytest.MonkeyPatch.context() as patch:
            before = left_behind.state()
            CHANGES[name](patch)
            return left_behind.differences(before, left_behind.state())

    (line,) = contextvars.copy_context().run(left)

    assert line.startswith(f"{name}: ")


def test_what_is_as_before_is_not():
    before = left_behind.state()

    assert left_behind.differences(before, left_behind.state()) == []
    assert len(before) > 50
    variables = {name for name in os.environ if not name.startswith(("PYTEST_CURRENT", "COVERAGE"))}
    assert variables <= {name.removeprefix("variable ") for name in before}


def test_a_method_of_what_was_imported_meanwhile_is_no_change():
    module, path = left_behind.METHODS[0]
    before = left_behind.state()
    after = {**before, f"{module}.{path}": object()}
    del before[f"{module}.{path}"]

    assert module in sys.modules
    assert left_behind.differences(before, after) == []
