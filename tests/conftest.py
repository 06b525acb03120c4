from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import coverage
import hypothesis  # before the freeze: of what is frozen its plugins see no referrer
import pytest
from hypothesis.configuration import set_hypothesis_home_dir
from opentelemetry.instrumentation._semconv import _OpenTelemetrySemanticConventionStability

import assisters_otel
import leaks
import one_certificate  # noqa: F401 - before any client is imported
from assisters_otel.fail_safe import own_errors
from assisters_otel.testing import FakeApi, answers
from callers import ANYONE, CALLERS
from leak_check import nothing_planted_leaves, pytest_configure
from left_behind import nothing_is_left_behind
from memory import Memory
from sizes import SIZE, WHOLE, left_out

if TYPE_CHECKING:
    from collections.abc import Iterator

# Until all tests are collected: what is imported stays, and to search it is a quarter of the time.
gc.disable()

# What has each process that a test starts measured. One that is not ends as it does elsewhere.
_MEASURED: Final = ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")
_measuring = {name: os.environ[name] for name in _MEASURED if name in os.environ}
if "PYTEST_XDIST_WORKER" in os.environ and SIZE < WHOLE:  # else the workers are not measured
    for name in _measuring:
        os.environ.pop(name)

# What it makes once, two seconds of CPU in each process that has it not, is for every checkout.
_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
set_hypothesis_home_dir(_cache / "assisters-otel" / "hypothesis")
# An example takes as long as a busy machine makes it.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

# pytest's, for all tests
__all__ = ["nothing_is_left_behind", "nothing_planted_leaves", "pytest_configure"]

LONG = {
    "backends", "bench", "compat", "fuzz", "load", "neutral", "runtimes", "test_aiohttp",
    "test_aiohttp_held_references", "test_aiohttp_limits", "test_aiohttp_read_methods",
    "test_answers_understood", "test_any_moment", "test_app", "test_app_exceptions",
    "test_app_instrumentation", "test_attribute_limits", "test_background_requests",
    "test_blocks", "test_calls", "test_cases", "test_check_retries", "test_config_file",
    "test_connection_failures", "test_default_host", "test_demo", "test_doctor", "test_durations",
    "test_equal_requests",
    "test_examples", "test_export", "test_flush", "test_framing", "test_gen_ai",
    "test_gen_ai_parents", "test_global_providers", "test_held_references", "test_host_names",
    "test_http_span", "test_http_variables", "test_imported_anew", "test_interrupted",
    "test_kubernetes", "test_left_streams", "test_neutral", "test_neutral_sdks",
    "test_openai_versions", "test_planted_faults", "test_plugin", "test_propagation",
    "test_providers", "test_recorded", "test_recording", "test_requests", "test_resend",
    "test_resends", "test_retries_of_loops", "test_retries_of_sdks", "test_secrets",
    "test_setups", "test_span_context", "test_streams", "test_taken", "test_telemetry",
    "test_unusable_answers", "test_variables", "test_watch", "test_whose_failure",
}  # fmt: skip
"""Folders and modules that take more than some seconds. What is in the others is quick."""

WAITING = (
    "test_retries_of_loops", "test_retries_of_sdks", "test_check_retries",
    "test_aiohttp_read_methods", "test_moments", "test_workers", "test_neutral", "test_taken",
    "test_whose_failure", "test_config_file", "test_telemetry", "test_interrupted", "test_lambda",
    "test_export", "test_gen_ai", "test_blocks", "test_aiohttp_limits", "test_exits",
)  # fmt: skip
"""Modules that wait for long, and compute little, the longest first: pauses of real retry
policies, time limits, ends of processes. Others are computed meanwhile."""

REPEATING = {
    "collector_config", "docs", "fuzz", "load", "neutral", "rules", "test_answers_understood",
    "test_app_instrumentation", "test_attempt_spans", "test_attribute_limits",
    "test_background_requests", "test_calls", "test_contract", "test_default_host",
    "test_endpoints", "test_equal_requests", "test_framing", "test_gen_ai", "test_held_references",
    "test_host_names", "test_http_span", "test_identity", "test_layers", "test_neutral",
    "test_neutral_sdks", "test_planted_faults", "test_resends", "test_retries_of_loops",
    "test_retries_of_sdks", "test_retryable", "test_secrets", "test_setups", "test_span_context",
    "test_streams", "test_wire", "test_wording",
}  # fmt: skip
"""Folders and modules that meet, together, some fifty lines that no other one meets."""

PROCESSES = {
    "test_check_retries", "test_commands", "test_doctor", "test_runtimes", "test_servers",
    "test_uwsgi", "test_watch", "test_workers",
}  # fmt: skip
"""Modules whose processes meet lines that no test's own process meets."""


def _place(path: Path) -> set[str]:
    return {*path.relative_to(Path(__file__).parent.parent).parts, path.stem}


def _is_quick(path: Path) -> bool:
    return LONG.isdisjoint(_place(path))


def _order(modules: list[Path]) -> list[Path]:
    """Alternate what waits and what computes, so that no core is idle now or at the end.

    What is quick comes after them, and the tests on real servers last: those are built meanwhile.
    """
    last = [path for path in modules if "backends" in path.parts]
    quick = [path for path in modules if _is_quick(path)]
    others = [path for path in modules if path not in {*last, *quick}]
    waiting = [path for name in WAITING for path in others if path.stem == name]
    computing = [path for path in others if path not in waiting]
    mixed = [path for pair in zip_longest(waiting, computing) for path in pair if path is not None]
    return [*mixed, *quick, *last]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where only what is quick is asked for, do not even import the rest."""
    return True if config.option.markexpr == "quick" and collection_path.stem in LONG else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is quick, leave out what size 1 has none of, and order the modules.

    What is measured runs only where it is asked for. Not by an option for all of pytest, which
    would keep who has no pytest-benchmark from running the example that is a test.
    """
    if not any("::" in argument for argument in config.args):  # else it is asked for by its name
        others = set(left_out(items))
        config.hook.pytest_deselected(items=[item for item in items if item in others])
        items[:] = [item for item in items if item not in others]
    ranks = {
        path: rank for rank, path in enumerate(_order([*dict.fromkeys(i.path for i in items)]))
    }
    for item in items:
        if _is_quick(item.path):
            item.add_marker(pytest.mark.quick)
    items.sort(key=lambda item: ranks[item.path])
    if not config.getoption("benchmark_only"):
        skipped = pytest.mark.skip(reason="pytest tests/bench --benchmark-only")
        for item in items:
            if "benchmark" in getattr(item, "fixturenames", ()):
                item.add_marker(skipped)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    gc.enable()  # also in the process that collects nothing itself


@pytest.fixture(scope="module", autouse=True)
def _heap_is_small() -> None:
    """Leave what is there to itself: to collect and search it in test after test takes minutes."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _installed_is_parsed_once() -> Iterator[None]:
    """Keep what is parsed of each installed package: `doctor` asks all of them each time."""
    parsed: dict[str, Any] = {}
    parse = metadata.Distribution.metadata.fget
    assert parse is not None

    def kept(self: metadata.Distribution) -> Any:
        place = str(getattr(self, "_path", ""))
        if not place.startswith(sys.prefix):  # a test's own
            return parse(self)
        if place not in parsed:
            parsed[place] = parse(self)
        return parsed[place]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata.Distribution, "metadata", property(kept))
        yield


@pytest.fixture(scope="module", autouse=True)
def _measured_once(request: pytest.FixtureRequest) -> Iterator[None]:
    """Measure no coverage where nothing new is met: it takes half as long as the test itself."""
    measuring = coverage.Coverage.current()
    if measuring is None or SIZE >= WHOLE:
        yield
        return
    place = _place(request.path)
    is_measured = REPEATING.isdisjoint(place)
    if not is_measured:
        measuring.stop()
    # `start` sets the variables again.
    for name, value in _measuring.items():
        if PROCESSES.isdisjoint(place):
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    yield
    if not is_measured:
        measuring.start()


@pytest.fixture(autouse=True)
def _faults_are_forgotten() -> None:
    """Leave no test what one before it has warned of, nor that it raises faults."""
    own_errors.start(strict=False)


@pytest.fixture(scope="module", autouse=True)
def _convention_mode_is_read_anew() -> None:
    """Leave no module the mode of the conventions that a test before it has asked for."""
    _OpenTelemetrySemanticConventionStability._initialized = False


@pytest.fixture(scope="session")
def shared_api() -> Iterator[FakeApi]:
    with FakeApi() as api:
        yield api


@pytest.fixture
def api(shared_api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    """The one server of all tests, as new."""
    monkeypatch.setattr(answers, "_words", lambda *_: leaks.MESSAGE)
    shared_api.reset()
    shared_api.connections = 0
    yield shared_api
    with suppress(RuntimeError):  # it runs; a test may have stopped it
        shared_api.start()


@pytest.fixture
def memory() -> Iterator[Memory]:
    memory = Memory()
    yield memory
    memory.shutdown()


@pytest.fixture
def telemetry(api: FakeApi, memory: Memory) -> Iterator[assisters_otel.Telemetry]:
    with assisters_otel.init(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
        strict=True,
    ) as telemetry:
        yield telemetry


@pytest.fixture(params=CALLERS, ids=str)
def caller(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=ANYONE, ids=str)
def anyone(request: pytest.FixtureRequest) -> Any:
    """Every client; `caller` is httpx and httpx2 alone, and can do more."""
    return request.param
