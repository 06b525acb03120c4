"""What a request costs with us, as a ratio to what OpenTelemetry's instrumentation adds.

pytest tests/bench --benchmark-only

Each round runs one block of every case that is compared, one after the other, so that the
machine's drift cancels in the differences. Goals are printed and never asserted: how long
something takes depends on the machine.
"""

from __future__ import annotations

import gc
import time
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest

from bench.cases import API, BARE, CASES, OTEL, OURS, Bench, Case, switched_on, table

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROUNDS = 40
_REQUESTS = 100
_WARM_UP = 30


@pytest.fixture(scope="module")
def rows(request: pytest.FixtureRequest) -> Iterator[list[Any]]:
    rows: list[Any] = []
    yield rows
    capture = request.config.pluginmanager.getplugin("capturemanager")
    if rows and capture:
        with capture.global_and_fixture_disabled():
            title = "\n\nRatios to what OpenTelemetry's httpx instrumentation adds"
            print(table(rows, "µs", title), end="")  # noqa: T201 - that is what it is for


def _ready(case: Case, stack: ExitStack) -> Bench:
    bench = stack.enter_context(switched_on(case))
    bench.send(_WARM_UP)
    gc.collect()
    return bench


def _block_s(case: Case) -> float:
    with ExitStack() as stack:
        bench = _ready(case, stack)
        start = time.thread_time()
        bench.send(_REQUESTS)
        return time.thread_time() - start


# The thread's own time: what other processes do meanwhile is not in it.
@pytest.mark.benchmark(timer=time.thread_time)
@pytest.mark.parametrize("case", OURS, ids=lambda case: case.name)
def test_cost(case: Case, benchmark: Any, rows: list[Any]) -> None:
    others = {index: CASES[index] for index in (BARE, OTEL, case.base)}
    blocks: dict[int, list[float]] = {index: [] for index in others}
    stack = ExitStack()

    def others_first() -> tuple[tuple[Any, ...], dict[str, Any]]:
        for index, other in others.items():
            blocks[index].append(_block_s(other))
        return (_ready(case, stack), _REQUESTS), {}

    def off(*_: Any) -> None:
        stack.close()

    benchmark.pedantic(Bench.run, setup=others_first, teardown=off, rounds=_ROUNDS)

    if benchmark.stats is None:  # --benchmark-disable
        return
    whole = benchmark.stats.stats.data
    added = median(o - b for o, b in zip(blocks[OTEL], blocks[BARE], strict=True))
    ours = median(w - b for w, b in zip(whole, blocks[case.base], strict=True))
    per_request_us = 1e6 / _REQUESTS
    added *= case.sdk or 1
    benchmark.extra_info.update(
        ratio=round(ours / added, 3),
        goal=case.goal,
        ours_us=round(ours * per_request_us, 2),
        opentelemetry_adds_us=round(added * per_request_us, 1),
        bare_us=round(median(blocks[BARE]) * per_request_us, 1),
    )
    if not rows:
        rows.append(("OpenTelemetry's alone", added * per_request_us, 1.0, None))
    rows.append((case.name, ours * per_request_us, ours / added, case.goal))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_is_what_it_says(case: Case) -> None:
    with switched_on(case) as bench:
        bench.send(3)

        requests = 3 * (case.sdk or 1)
        calls = 3 if case.sdk and (case.ours or case.floor) else 0
        seen = case.theirs or (case.ours and case.url == API)
        assert bench.spans.ended == (requests + calls if seen else 0)
        if bench.telemetry is not None:
            status = bench.telemetry.status()
            assert status.attempts == (requests if case.url == API else 0)
            assert status.errors == (3 if case.limited else requests - calls if calls else 0)
            assert status.last_failure is None
