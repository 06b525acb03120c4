"""Every public name, used as an application would. Checked by mypy and pyright, and never run.

A change that breaks the types of an application breaks this file first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from tenacity import retry, retry_if_exception

import assisters_otel
from assisters_otel import catalog
from assisters_otel.testing import (
    AssistersTelemetry,
    FakeApi,
    Point,
    Received,
    Recorded,
    RetryPolicyError,
    RetryReport,
    RetryRow,
    SentUsage,
    check_retries,
    recorded,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import openai


def switch_on() -> assisters_otel.Telemetry:
    """`init` by its defaults, and with each argument."""
    assisters_otel.init()
    assisters_otel.init("checkout")
    return assisters_otel.init(
        "checkout",
        endpoint="http://127.0.0.1:4318",
        headers={"x-tenant": "a"},
        protocol="http/protobuf",
        hosts=["gateway.example.com:8080/v1"],
        capture_message=False,
        key_fingerprint=False,
        baggage=("tenant", "team"),
        tracer_provider=TracerProvider(),
        meter_provider=MeterProvider(),
        strict=True,
    )


def handle() -> bool:
    """What `init` returns, as a value and as a context manager."""
    with assisters_otel.init("checkout") as telemetry:
        status: assisters_otel.Status = telemetry.status()
        attempts: int = status.attempts
        hosts: tuple[str, ...] = status.hosts
        last: str | None = status.last_failure
        in_time: bool = telemetry.flush(timeout_s=2.5)
        telemetry.shutdown()
    return in_time and bool(attempts or hosts or last)


@assisters_otel.flushed
def handler(event: dict[str, str], _context: object) -> str:
    """A function after which the platform freezes the process."""
    return event["name"]


@assisters_otel.flushed
async def handler_async(event: dict[str, str]) -> str:
    """The same, as a coroutine function."""
    return event["name"]


async def invoke() -> str:
    """A decorated function has the types that it had."""
    name: str = handler({"name": "a"}, None)
    return name + await handler_async(event={"name": "b"})


def explain(error: openai.APIError, response: httpx.Response) -> str:
    """What is known of an error."""
    explanation: assisters_otel.Explanation = assisters_otel.explain(error)
    wait_s: float | None = assisters_otel.retry_after_s(response)
    helps: bool = assisters_otel.retryable(error) and explanation.retryable
    code: str | None = explanation.code
    return f"{explanation.user_message} {explanation.ticket} {code} {wait_s} {helps}"


@retry(retry=retry_if_exception(assisters_otel.retryable))
def call_with_tenacity() -> None:
    """A loop of one's own."""


def documented() -> Sequence[str]:
    """The catalog."""
    error: catalog.Error | None = catalog.find("rate_limit_exceeded")
    kind: catalog.ErrorType | None = catalog.find_type("rate_limit_error")
    advice = "" if error is None else error.advice
    return [advice, "" if kind is None else kind.description, *(e.code for e in catalog.ERRORS)]


def instrumentor() -> None:
    """Switched on as any instrumentor of OpenTelemetry."""
    assisters_otel.AssistersInstrumentor().instrument(tracer_provider=TracerProvider())
    assisters_otel.AssistersInstrumentor().uninstrument()


def fake_api() -> int:
    """The server for tests."""
    with FakeApi(port=0) as api:
        api.answers("rate_limit_exceeded", "ok", retry_after=2)
        api.answers(status=418, code="teapot", message="no", fault=None, times=2)
        received: list[Received] = api.requests
        usage: list[SentUsage] = api.usage
        api.reset()
        return len(api.url) + len(received) + sum(one.input_tokens for one in usage)


def record() -> tuple[Point, ...]:
    """What happens inside a block."""
    with recorded() as got:
        kept: Recorded = got
    return kept.points("assisters.client.errors")


def test_as_an_application_writes_it(
    assisters_api: FakeApi, assisters_telemetry: AssistersTelemetry
) -> None:
    """The two fixtures."""
    assisters_telemetry.api.answers("internal_error")
    assert assisters_api.url == assisters_telemetry.api.url


def prove_a_retry_policy() -> None:
    """A policy that fails raises, and its report says why."""

    def call(api: FakeApi) -> object:
        return httpx.get(f"{api.url}/models")

    report: RetryReport = check_retries(call, leave_out=["outage"], parallel=False, limit_s=5)
    with pytest.raises(RetryPolicyError) as raised:
        check_retries(call)
    rows: Sequence[RetryRow] = raised.value.report.rows
    assert report.ok
    assert not raised.value.report.ok
    assert rows
