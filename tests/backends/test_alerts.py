"""Each alert that can be provoked within a minute reaches a webhook, in words, and resolves.

The shipped rules with shorter windows (see `quick_rules`), over the shipped collector and
Alertmanager. What takes longer (a queue that fills) is tested by promtool alone.
"""

from __future__ import annotations

import pytest
from servers import Collector, within
from stories import MISTAKES

from assisters_otel import catalog

pytestmark = pytest.mark.usefixtures("trouble")
ONE_CODE = {
    "AssistersKeyInvalid": "invalid_api_key",
    "AssistersKeyRevoked": "api_key_revoked",
    "AssistersOriginNotAllowed": "origin_not_allowed",
    "AssistersTokensExhausted": "tokens_exhausted",
    "AssistersInsufficientFunds": "insufficient_funds",
    "AssistersRateLimited": "rate_limit_exceeded",
    "AssistersModelOverloaded": "model_overloaded",
    "AssistersContentFiltered": "content_filtered",
    "AssistersPromptInjection": "prompt_injection_detected",
}
OTHERS = {
    "AssistersUndocumentedError": "quota_frozen",
    "AssistersRetriesFutile": "insufficient_funds",
    "AssistersRetriesEarly": "rate_limit_exceeded",
    "AssistersCallsFailThoughRetried": "model_overloaded",
    "AssistersNoAnswer": "RemoteProtocolError",
    "AssistersStreamsFail": "truncated",
    "AssistersHeadroomLow": "rate_limit_exceeded",
    "AssistersLatencyHigh": "no error code",
    "AssistersInternalErrorsFast": "internal_error",
    "AssistersInternalErrorsSlow": "internal_error",
}


@pytest.mark.parametrize("alert", ONE_CODE)
def test_an_alert_of_a_code_arrives_with_the_catalog_s_advice(stack, alert):
    code = ONE_CODE[alert]

    arrived = within(60, lambda: stack.webhook.of(alert))

    assert arrived, stack.prometheus.alerts()
    told = arrived[0]
    assert told["labels"]["error_code"] == code
    assert code in told["annotations"]["summary"]
    assert told["annotations"]["description"].startswith(catalog.find(code).advice)
    assert told["annotations"]["runbook_url"].endswith(f"#{alert.lower()}")
    receivers = {"page": "pager", "ticket": "tickets"}
    assert told["receiver"] == receivers[told["labels"]["severity"]]


@pytest.mark.parametrize("code", MISTAKES)
def test_a_caller_s_mistake_arrives_with_the_catalog_s_advice(stack, code):
    arrived = within(60, lambda: stack.webhook.of("AssistersCallerMistakes", error_code=code))

    assert arrived, stack.prometheus.alerts()
    assert arrived[0]["annotations"]["description"].startswith(catalog.find(code).advice)


def test_all_kinds_of_a_service_s_failures_arrive_as_one_alert(stack):
    arrived = within(60, lambda: stack.webhook.of("AssistersStreamsFail", service_name="deploy"))

    assert arrived, stack.prometheus.alerts()
    assert len({one["fingerprint"] for one in arrived}) == 1
    assert "truncated" in arrived[0]["annotations"]["summary"]
    assert "internal_error" in arrived[0]["annotations"]["summary"]


@pytest.mark.parametrize("alert", OTHERS)
def test_an_alert_of_more_than_one_code_arrives_and_names_it(stack, alert):
    def naming_it():
        arrived = stack.webhook.of(alert)
        return [one for one in arrived if OTHERS[alert] in one["annotations"]["summary"]]

    assert within(60, naming_it), stack.prometheus.alerts()


def test_every_alert_resolves_when_it_is_over(stack, trouble):
    provoked = [*ONE_CODE, *OTHERS, "AssistersCallerMistakes"]
    trouble.does("ok")  # with all of a minute's limit left

    def unresolved():
        return [alert for alert in provoked if not stack.webhook.of(alert, "resolved")]

    within(120, lambda: not unresolved())

    assert unresolved() == []


def test_a_collector_that_has_no_room_and_one_that_is_gone_are_told(stack, app, tmp_path_factory):
    small = Collector(
        tmp_path_factory.mktemp("small"),
        JAEGER_OTLP_ENDPOINT=stack.jaeger.otlp,
        MEMORY_LIMIT_MIB="2",
        MEMORY_SPIKE_MIB="1",
    )
    stack.prometheus.target("collector", [stack.collector.exporter, small.exporter])
    stack.prometheus.target("collector-telemetry", [stack.collector.telemetry, small.telemetry])
    try:
        one = app("cramped", small.http)
        one.does("ok", 3)
        one.does("flush")
        lost = within(30, lambda: stack.webhook.of("AssistersCollectorLosesData"))
        assert lost
        assert lost[0]["labels"]["instance"] == small.telemetry
    finally:
        small.stop()

    gone = within(30, lambda: stack.webhook.of("AssistersCollectorDown"))

    assert {one["labels"]["instance"] for one in gone} <= {small.exporter, small.telemetry}
    assert gone
