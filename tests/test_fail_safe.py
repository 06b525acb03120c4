"""The one place that swallows: what it logs of the library's own faults, and what it lets pass."""

from __future__ import annotations

import inspect
import logging
import sys
import traceback

import pytest

from assisters_otel.fail_safe import MAX_WARNED, decorated, fail_safe, fail_safe_but_for, own_errors
from assisters_otel.recording.deferred import Deferred


def broken(why):
    raise RuntimeError(why)


@pytest.fixture
def broken_step(monkeypatch):
    monkeypatch.setattr("assisters_otel.fail_safe.decorated", [])
    return fail_safe(broken)


@pytest.fixture
def strict():
    own_errors.start(strict=True)
    yield
    own_errors.start(strict=False)


def warnings(caplog):
    return [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_fault_is_none_and_is_kept(broken_step):
    assert fail_safe(lambda a, *, b: a + b)(1, b=2) == 3
    assert broken_step("ours") is None
    assert own_errors.last_failure == "RuntimeError: ours"


def test_a_new_start_forgets_the_faults_before_it(broken_step, caplog):
    broken_step("ours")
    own_errors.start(strict=False)
    assert own_errors.last_failure is None

    broken_step("ours")
    assert len(warnings(caplog)) == 2


def test_two_faults_that_take_turns_are_two_warnings(broken_step, caplog):
    with caplog.at_level(logging.DEBUG, "assisters_otel"):
        for _ in range(5):
            broken_step("of the metrics")
            broken_step("of the log")

    assert len(warnings(caplog)) == 2
    assert own_errors.last_failure == "RuntimeError: of the log"


def test_a_fault_that_is_another_each_time_is_not_warned_of_for_ever(broken_step, caplog):
    for number in range(5 * MAX_WARNED):
        broken_step(f"number {number}")

    assert len(warnings(caplog)) == MAX_WARNED


def test_a_key_in_a_fault_is_masked(broken_step, caplog):
    with caplog.at_level(logging.DEBUG, "assisters_otel"):
        broken_step("Bearer ask_live_0123456789")

    assert "ask_live" not in caplog.text
    assert own_errors.last_failure == "RuntimeError: REDACTED"


def test_a_cancellation_passes():
    @fail_safe
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()


@pytest.mark.usefixtures("strict")
def test_a_fault_is_raised_if_that_is_asked_for(broken_step):
    with pytest.raises(RuntimeError, match="ours"):
        broken_step("ours")


def test_the_user_s_own_mistake_passes_where_that_is_asked_for():
    with pytest.raises(RuntimeError, match="theirs"):
        fail_safe_but_for(RuntimeError)(broken)("theirs")
    assert fail_safe_but_for(ValueError)(broken)("ours") is None


@pytest.mark.parametrize(
    "step",
    [
        lambda a: a,
        lambda a, b=2: (a, b),
        lambda a, b, /, c: (a, b, c),
        lambda a, b, c, d=4: (a, b, c, d),
        lambda a, b, c, d=4, e=5: (a, b, c, d, e),
    ],
)
def test_a_decorated_function_has_the_very_parameters_of_its_own(step, monkeypatch):
    monkeypatch.setattr("assisters_otel.fail_safe.decorated", [])
    told = inspect.signature(step)
    given = [object() for _ in told.parameters]

    safe = fail_safe(step)

    assert safe.__globals__["__name__"] == "assisters_otel.fail_safe"  # a frame of the library's
    assert inspect.signature(safe, follow_wrapped=False) == told
    assert safe(*given) == step(*given)


def test_a_traceback_shows_the_line_that_calls_the_step(monkeypatch):
    monkeypatch.setattr("assisters_otel.fail_safe.decorated", [])

    @fail_safe
    def step(_one):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as raised:
        step(1)

    assert "return _safe_step(" in traceback.extract_tb(raised.tb)[1].line


@pytest.mark.parametrize(
    "step", [lambda: (), lambda *a, **b: (a, b), lambda a, b, c, d, e, f: (a, b, c, d, e, f)]
)
def test_a_decorated_function_may_have_any_parameters(step, monkeypatch):
    monkeypatch.setattr("assisters_otel.fail_safe.decorated", [])
    given = [object() for _ in range(step.__code__.co_argcount)]

    assert fail_safe(step)(*given) == step(*given)


def test_arguments_may_be_given_by_their_names_or_left_out(monkeypatch):
    monkeypatch.setattr("assisters_otel.fail_safe.decorated", [])

    @fail_safe
    def step(error, step, safe=3):
        return error, step, safe

    assert step(1, 2) == step(step=2, error=1) == step(1, step=2, safe=3) == (1, 2, 3)
    assert step(1, 2, 4) == (1, 2, 4)
    with pytest.raises(TypeError, match="'step'"):
        step(1)


def test_what_raises_only_later_cannot_be_decorated():
    async def coroutine():
        """Raise where it is awaited."""

    def generator():
        yield

    async def async_generator():
        yield

    for step in (coroutine, generator, async_generator):
        with pytest.raises(TypeError, match="is awaited or iterated over"):
            fail_safe(step)


LOOK = {"a debugger": ("gettrace", "settrace"), "a profiler": ("getprofile", "setprofile")}


@pytest.mark.parametrize("who", LOOK)
def test_a_step_gets_its_arguments_while_a_debugger_looks_at_them(monkeypatch, who):
    """Before Python 3.13 that writes all variables of a function back, by their names."""
    monkeypatch.setattr("assisters_otel.fail_safe.decorated", [])

    @fail_safe
    def told(step, errors, error):
        return step, errors, error

    def look(frame, *_):
        assert frame.f_locals is not None
        return look

    get, put = (getattr(sys, name) for name in LOOK[who])
    before = get()
    put(look)
    try:
        found = told(1, 2, 3)
    finally:
        put(before)

    assert found == (1, 2, 3)


def test_no_decorated_step_of_ours_has_two_variables_of_one_name():
    names = {
        step.__qualname__: [*step.__code__.co_varnames, *step.__code__.co_freevars]
        for step in decorated
    }

    assert Deferred.run_outside_collector.__qualname__ in names
    assert [step for step, of in names.items() if len(set(of)) < len(of)] == []
