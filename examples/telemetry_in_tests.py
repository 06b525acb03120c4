"""How do I test what my telemetry says? Run it: pytest examples/telemetry_in_tests.py."""
# ruff: noqa: S101 - pytest asserts

from __future__ import annotations

from typing import TYPE_CHECKING

import openai
import pytest

import assisters_otel

if TYPE_CHECKING:
    from assisters_otel.testing import AssistersTelemetry


def greet(base_url: str) -> str | None:
    """Start as the app does, and call the API as it does."""
    assisters_otel.init("checkout")
    with openai.OpenAI(base_url=base_url, api_key="ask_test") as client:
        answer = client.chat.completions.create(
            model="assisters-chat-v1", messages=[{"role": "user", "content": "Say hello."}]
        )
    return answer.choices[0].message.content


def test_a_retry_is_seen_and_is_no_error(assisters_telemetry: AssistersTelemetry) -> None:
    """The fixture comes with assisters-otel[testing]; nothing is exported meanwhile."""
    api, seen = assisters_telemetry
    api.answers("model_overloaded", "ok")

    assert greet(api.url) == "Hello from the fake API."

    (call,) = seen.calls
    assert call.attributes is not None
    assert call.attributes["assisters.call.outcome"] == "recovered"
    assert [attempt.status.description for attempt in seen.attempts] == ["model_overloaded", None]


def test_a_refusal_is_counted_and_logged(assisters_telemetry: AssistersTelemetry) -> None:
    """What an alert rests on, and what support asks for."""
    api, seen = assisters_telemetry
    api.answers("insufficient_funds", request_id="req_42")

    with pytest.raises(openai.APIStatusError):
        greet(api.url)

    (point,) = seen.points("assisters.client.errors")
    assert point.attributes["error.code"] == "insufficient_funds"
    assert "req_42" in seen.logs[0].getMessage()
