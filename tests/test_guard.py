"""The one place that catches: what it says of our own trouble, and what it lets pass."""

from __future__ import annotations

import logging

import pytest

from assisters_otel.fail_safe import MAX_TOLD, Guard


def broken(why):
    raise RuntimeError(why)


def warnings(caplog):
    return [record for record in caplog.records if record.levelname == "WARNING"]


def test_what_a_step_returns_is_returned_and_what_it_raises_is_not_raised():
    guard = Guard()

    assert guard(lambda a, *, b: a + b, 1, b=2) == 3
    assert guard(broken, "ours") is None
    assert guard.last_failure == "RuntimeError: ours"


def test_two_troubles_that_take_turns_are_two_warnings(caplog):
    guard = Guard()
    with caplog.at_level(logging.DEBUG, "assisters_otel"):
        for _ in range(5):
            guard(broken, "of the metrics")
            guard(broken, "of the log")

    assert len(warnings(caplog)) == 2
    assert guard.last_failure == "RuntimeError: of the log"


def test_a_trouble_that_is_another_each_time_is_not_warned_of_for_ever(caplog):
    guard = Guard()
    for number in range(5 * MAX_TOLD):
        guard(broken, f"number {number}")

    assert len(warnings(caplog)) == MAX_TOLD


def test_a_key_in_a_trouble_is_masked(caplog):
    guard = Guard()
    with caplog.at_level(logging.DEBUG, "assisters_otel"):
        guard(broken, "Bearer ask_live_0123456789")

    assert "ask_live" not in caplog.text
    assert guard.last_failure == "RuntimeError: REDACTED"


def test_the_caller_s_giving_up_passes():
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Guard()(stop)


def test_what_is_to_pass_and_what_is_strict_is_raised():
    with pytest.raises(RuntimeError, match="ours"):
        Guard(strict=True)(broken, "ours")
    with pytest.raises(RuntimeError, match="ours"):
        Guard(passing=RuntimeError)(broken, "ours")
    assert Guard(passing=ValueError)(broken, "ours") is None
