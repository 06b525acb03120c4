"""Units of work that a runtime shows: which one a task or thread works for."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from assisters_otel.attempts.control_flow import UNKNOWN, Units


@pytest.fixture
def units() -> Units:
    return Units()


def in_a_thread(units: Units) -> str | None:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(units.current).result()


def test_outside_of_units_there_is_none(units):
    units.start("a")
    units.end("a")

    assert units.current() is None
    assert in_a_thread(units) is None


def test_a_unit_within_another_is_the_one_that_works(units):
    units.start("outer")
    units.start("inner")
    inner = units.current()
    units.end("inner")

    assert (inner, units.current()) == ("inner", "outer")


def test_what_ends_without_having_started_ends_nothing(units):
    units.start("a")
    units.end("b")

    assert units.current() == "a"


def test_a_unit_s_end_is_that_of_those_within_which_have_not_ended(units):
    units.start("outer")
    units.start("killed")
    units.end("outer")

    assert units.current() is None
    assert in_a_thread(units) is None


def test_a_thread_that_knows_no_unit_works_for_the_only_one(units):
    units.start("a")

    assert in_a_thread(units) == "a"


def test_beside_two_units_nobody_knows_which_one_a_thread_works_for(units):
    is_started, may_end = threading.Event(), threading.Event()

    def other() -> None:
        units.start("b")
        is_started.set()
        may_end.wait()
        units.end("b")

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(other)
        is_started.wait()
        units.start("a")
        beside = in_a_thread(units)
        may_end.set()
        ended.result()

    assert (beside, in_a_thread(units)) == (UNKNOWN, "a")


def test_a_unit_within_one_of_its_own_name_ends_alone(units):
    units.start("a")
    units.start("a")
    units.end("a")

    assert units.current() == "a"


def test_a_unit_that_ends_in_two_copies_of_a_context_ends(units):
    units.start("a")
    copied = contextvars.copy_context()
    units.end("a")
    copied.run(units.end, "a")

    assert units.current() is None
    assert in_a_thread(units) is None


def test_tasks_of_one_loop_have_units_of_their_own(units):
    async def job(name: str) -> str | None:
        units.start(name)
        await asyncio.sleep(0.01)
        found = units.current()
        units.end(name)
        return found

    async def both() -> list[str | None]:
        return await asyncio.gather(job("a"), job("b"))

    assert asyncio.run(both()) == ["a", "b"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_child_has_none_of_the_units_of_its_parent_s_other_threads(units):
    is_started, may_end = threading.Event(), threading.Event()

    def other() -> None:
        units.start("of another thread")
        is_started.set()
        may_end.wait()

    thread = threading.Thread(target=other)
    thread.start()
    is_started.wait()
    child = os.fork()
    if child == 0:
        os._exit(0 if units.current() is None else 1)
    may_end.set()
    thread.join()

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
