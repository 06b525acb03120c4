"""AWS Lambda's own runtime, frozen between its invocations: what each has sent arrives in it.

Beside it, `flushed`, for where the runtime cannot be reached. No invocation waits for long.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from apps import HERE, App, Told, command, environment, running, told
from lambda_api import Ended, RuntimeApi

from otlp import Collector
from sizes import SIZE, WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from assisters_otel.testing import FakeApi

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the runtime is for Linux alone")

OTHER_MODULE = "lambda_handlers.handler"
OWN_MODULE = "lambda_own_init.handler"
DECORATED = "lambda_own_init.decorated"
LATE = "lambda_late_init.handler"
OTHERS = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
NO_WAIT_S = 0.9  # what a busy machine takes for the rest: a wait takes a second, or two


class Function:
    """A function under Lambda's runtime.

    Attributes:
        app: The runtime's process.
        api: What invokes it.
    """

    def __init__(self, app: App, api: RuntimeApi) -> None:
        self.app = app
        self.api = api

    def invoke(self, request_id: str = "one", timeout_s: float = 30, **event: object) -> Ended:
        return self.api.invoke(event, request_id=request_id, timeout_s=timeout_s)


@contextmanager
def function(
    api: FakeApi,
    collector: Collector,
    folder: Path,
    handler: str,
    mode: str = "ours",
    **more: str,
) -> Iterator[Function]:
    """Run a function, and kill its process at the end, as it is frozen."""
    with RuntimeApi() as runtime:
        env = environment(api, collector, mode, **{"PYTHONPATH": str(HERE), **more})
        env |= {"AWS_LAMBDA_RUNTIME_API": runtime.address, "_HANDLER": handler}
        with running(command(mode, "awslambdaric", handler), env, folder) as app:
            runtime.pid = app.process.pid
            yield Function(app, runtime)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


CASES = [
    (OTHER_MODULE, "ours"),
    (OTHER_MODULE, "the app's"),
    (OTHER_MODULE, "zero-code"),
    (OWN_MODULE, "ours"),
    (DECORATED, "ours"),
]
MODES = ("ours", "the app's", "zero-code") if SIZE >= WHOLE else ("ours",)


@pytest.mark.parametrize(("handler", "mode"), CASES)
def test_what_an_invocation_has_sent_has_arrived_at_its_end(
    api: FakeApi, collector: Collector, tmp_path: Path, *, handler: str, mode: str
):
    with function(api, collector, tmp_path, handler, mode) as it:
        for number in range(1, 4):
            ended = it.invoke(number=number)

            assert ended[:2] == ("response", f"{number} is done"), it.app.said
            assert told(api, collector) == Told(number, number, number), it.app.said


def test_an_invocation_that_switches_it_on_is_flushed_by_the_next(
    api: FakeApi, collector: Collector, tmp_path: Path
):
    with function(api, collector, tmp_path, LATE) as it:
        it.invoke(number=1)
        it.invoke(number=2)

    assert told(api, collector) == Told(2, 2, 2), it.app.said


def test_an_invocation_that_fails_is_flushed_and_reported_as_without_us(
    api: FakeApi, collector: Collector, tmp_path: Path
):
    with function(api, collector, tmp_path, OTHER_MODULE) as it:
        ended = it.invoke(**{"number": 1, "raise": "yes"})

    assert ended.status == "error"
    assert ended.body["errorType"] == "LookupError"
    (frame,) = ended.body["stackTrace"]
    assert "lambda_handlers.py" in frame
    assert told(api, collector) == Told(1, 1, 1), it.app.said


@pytest.mark.parametrize("handler", [OTHER_MODULE, DECORATED])
def test_an_invocation_exports_once(
    api: FakeApi, collector: Collector, tmp_path: Path, handler: str
):
    with function(api, collector, tmp_path, handler) as it:
        for number in range(3):
            it.invoke(number=number)

    paths = [request.path for request in collector.requests]
    assert sorted(paths) == ["/v1/metrics"] * 3 + ["/v1/traces"] * 3


@pytest.mark.parametrize("mode", ["ours", "the app's", "zero-code"])
def test_beside_opentelemetry_s_own_instrumentation_nothing_comes_twice(
    api: FakeApi, collector: Collector, tmp_path: Path, mode: str
):
    handler = OTHER_MODULE
    more = {"AWS_LAMBDA_FUNCTION_NAME": "f"}
    if mode == "zero-code":
        off = environment(api, collector, mode)[OTHERS].split(",")
        more[OTHERS] = ",".join(one for one in off if one != "aws-lambda")
    else:
        handler = "lambda_instrumented.handler"
    with function(api, collector, tmp_path, handler, mode, **more) as it:
        for number in range(3):
            ended = it.invoke(number=number)
            assert ended[:2] == ("response", f"{number} is done"), it.app.said

    assert told(api, collector) == Told(3, 3, 3), it.app.said
    spans = collector.spans()
    assert [span.kind for span in spans].count("SERVER") == 3
    assert len({span.span_id for span in spans}) == len(spans) == 6
    paths = [request.path for request in collector.requests]
    assert sorted(paths) == ["/v1/metrics"] * 3 + ["/v1/traces"] * 3


@pytest.mark.parametrize("mode", MODES)
def test_a_collector_that_hangs_holds_up_two_invocations_and_not_the_next_ten(
    api: FakeApi, tmp_path: Path, mode: str
):
    handler = OTHER_MODULE
    with Collector(hang=True) as collector, function(api, collector, tmp_path, handler, mode) as it:
        ended = [it.invoke(number=number) for number in range(13)]

    held_s = [one.held_s for one in ended]
    assert all(1.9 < one < 2 + NO_WAIT_S for one in [*held_s[:2], held_s[12]]), held_s
    assert max(held_s[2:12]) < 1.9, held_s
    # The caller has its answer before the flush. The first one starts the client.
    assert max(one.answered_s for one in ended[1:]) < 1.9


def test_a_collector_that_is_not_there_holds_up_two_invocations_for_a_second(
    api: FakeApi, tmp_path: Path
):
    with Collector() as gone:
        pass
    handler = OTHER_MODULE
    with function(api, gone, tmp_path, handler) as it:
        held_s = [it.invoke(number=number).held_s for number in range(4)]

    assert max(held_s[:2]) < 1 + NO_WAIT_S, held_s
    assert max(held_s[2:]) < NO_WAIT_S, held_s


def test_a_collector_that_is_back_gets_what_was_not_waited_for(api: FakeApi, tmp_path: Path):
    handler = OTHER_MODULE
    with Collector() as gone:
        pass
    port = int(gone.endpoint.rpartition(":")[2])
    with function(api, gone, tmp_path, handler) as it:
        for number in range(3):
            it.invoke(number=number)
        with Collector(port=port) as collector:
            for number in range(3, 14):
                it.invoke(number=number)

            assert told(api, collector).counted == 14


@pytest.mark.parametrize(("timeout_s", "longest_s"), [(1.2, 0.7), (0.4, 0.0)])
def test_no_invocation_waits_into_its_last_half_second(
    api: FakeApi, tmp_path: Path, timeout_s: float, longest_s: float
):
    handler = OTHER_MODULE
    with Collector() as collector, function(api, collector, tmp_path, handler) as it:
        it.invoke(number=0)
        collector.hang = True
        ended = it.invoke(number=1, timeout_s=timeout_s)

    assert longest_s - 0.4 < ended.held_s < timeout_s


def test_invocations_that_ask_the_same_are_firsts_and_one_that_lambda_repeats_is_none(
    api: FakeApi, collector: Collector, tmp_path: Path
):
    api.answers(code="rate_limit_exceeded", times=6)
    with function(api, collector, tmp_path, OTHER_MODULE) as it:
        for request_id in ("a", "b", "c", "c"):
            it.invoke(request_id, ask=1)
        it.invoke("d", ask=2)

    spans = sorted(collector.spans(), key=lambda span: span.start_ns)
    resends = [span.attributes.get("http.request.resend_count", 0) for span in spans]
    assert resends == [0, 0, 0, 1, 0, 1], it.app.said


def test_a_runtime_that_forks_for_concurrent_invocations_loses_nothing(
    api: FakeApi, collector: Collector, tmp_path: Path
):
    """What Lambda calls managed instances: a process for each invocation at a time."""
    more = {"AWS_LAMBDA_MAX_CONCURRENCY": "1"}
    handler = OWN_MODULE
    with function(api, collector, tmp_path, handler, **more) as it:
        it.api.pid = None  # the parent; its child is not frozen
        for number in range(3):
            it.invoke(number=number)

        assert told(api, collector) == Told(3, 3, 3), it.app.said


def test_the_example_loses_nothing_as_it_stands(api: FakeApi, collector: Collector, tmp_path: Path):
    api.answers()
    api.answers(code="invalid_api_key", request_id="req_1")
    more = {"ASSISTERS_BASE_URL": api.url, "ASSISTERS_API_KEY": "ask_test_1234567890"}
    more["PYTHONPATH"] = str(HERE.parent.parent / "examples")
    with function(api, collector, tmp_path, "lambda_function.handler", **more) as it:
        first, second = it.invoke(name="Ada"), it.invoke(name="Grace")

        assert told(api, collector) == Told(2, 2, 2), it.app.said
    assert first.body.keys() == {"greeting"}
    assert (second.body["retry"], second.body["reference"]) == (False, "req_1")


@pytest.mark.parametrize("kind", ["another object", "itself"])
def test_a_handler_that_answers_to_any_name_is_called(kind: str):
    from assisters_otel.runtimes import aws_lambda

    class Handler:
        def __getattr__(self, name: str) -> Handler:
            return self if kind == "itself" else Handler()

        def __call__(self) -> str:
            return "done"

    def handle_event_request(request_handler: Handler) -> str:
        return request_handler()

    assert aws_lambda._as_unit(handle_event_request)(Handler()) == "done"


def test_a_deadline_is_one_of_the_wall_clock():
    from assisters_otel.runtimes import aws_lambda

    assert 1.5 < aws_lambda._left_s((time.time() + 2) * 1000) <= 2
