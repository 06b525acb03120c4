"""Each alert that can be provoked within a minute reaches a webhook, in words, and resolves.

The shipped rules with shorter windows (see `quick_rules`), over the shipped collector and
Alertmanager. What takes longer (a queue that fills) is tested by promtool alone. Alertmanager
holds back what follows from something worse in the same service: each trouble has one of its own.
"""

from __future__ import annotations

import pytest
from servers import Collector, noise, within
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
    "AssistersRetriesFutile": "invalid_model",
    "AssistersRetriesEarly": "rate_limit_exceeded",
    "AssistersCallsFailThoughRetried": "model_overloaded",
    "AssistersNoAnswer": "RemoteProtocolError",
    "AssistersStreamsFail": "truncated",
    "AssistersHeadroomLow": "rate_limit_exceeded",
    "AssistersLatencyHigh": "no error code",
    "AssistersInternalErrorsFast": "internal_error",
    "AssistersInternalErrorsSlow": "internal_error",
    "AssistersInternalErrors": "internal_error",
    "AssistersAttemptsCancelled": "no error code",
    "AssistersGatewayRefuses": "401",
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
    arrived = within(60, lambda: stack.webhook.of("AssistersStreamsFail", service_name="streamer"))

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


def test_every_alert_resolves_when_it_is_over(stack):
    provoked = [*ONE_CODE, *OTHERS, "AssistersCallerMistakes"]

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


def test_the_watchdog_comes_for_ever_and_to_nobody_else(stack):
    first = within(60, lambda: stack.webhook.of("AssistersWatchdog"))

    assert first
    assert {one["receiver"] for one in first} == {"watchdog"}
    assert within(90, lambda: len(stack.webhook.of("AssistersWatchdog")) > len(first))


def test_an_idle_process_s_gauge_is_not_looked_at(stack, trouble):
    """The collector shows it for minutes: the last of one burst, long after it."""
    trouble.does("each", times=1, headers={"x-ratelimit-remaining-tpm": "1000"})
    trouble.does("flush")
    of = '{service_name="hammer"}'
    left = f"assisters_client_ratelimit_tokens_remaining{of} < 2000"
    firing = 'ALERTS{alertname="AssistersHeadroomLow",service_name="hammer",alertstate="firing"}'
    assert within(15, lambda: stack.prometheus.query(firing))

    assert within(20, lambda: not stack.prometheus.query(firing))
    assert stack.prometheus.query(left), "it is still there"


def test_an_outage_at_low_traffic_is_one_page(stack, app):
    """Four seconds between two attempts, with these windows: no share has twenty of them."""
    lonely = app("lonely", stack.collector.http)
    lonely.does("ok")
    lonely.does("drip", "internal_error", 14, 4.0)

    alert = "AssistersNothingSucceeds"
    arrived = within(30, lambda: stack.webhook.of(alert, service_name="lonely"))

    assert arrived, stack.prometheus.alerts()
    assert arrived[0]["receiver"] == "pager"
    assert "internal_error" in arrived[0]["annotations"]["summary"]
    others = {one["labels"]["alertname"] for one in stack.webhook.alerts
              if one["labels"].get("service_name") == "lonely"}  # fmt: skip
    assert others == {alert}
    lonely.does("ok", 2)
    lonely.does("flush")
    assert within(40, lambda: stack.webhook.of(alert, "resolved", service_name="lonely"))


def test_two_services_of_one_name_do_not_hide_each_other(stack, app):
    env = "service.namespace={},deployment.environment=older"
    small, large = (
        app("twin", stack.collector.http, OTEL_RESOURCE_ATTRIBUTES=env.format(one))
        for one in ("small", "large")
    )
    large.does("ok", 1000)
    small.does("ok", 30)
    small.does("each", "rate_limit_exceeded", times=30)
    large.does("flush")
    small.does("flush")

    arrived = within(30, lambda: stack.webhook.of("AssistersRateLimited", service_name="twin"))

    assert arrived, "3 % of both, and half of one"
    assert {one["labels"]["service_namespace"] for one in arrived} == {"small"}
    assert {one["labels"]["deployment_environment"] for one in arrived} == {"older"}


def test_a_revoked_key_silences_its_futile_retries(stack, app):
    stubborn = app("stubborn", stack.collector.http)
    stubborn.does("each", "api_key_revoked")
    stubborn.does("flush")
    assert within(30, lambda: stack.webhook.of("AssistersKeyRevoked", service_name="stubborn"))
    of = 'service_name="stubborn",alertstate="firing"'
    futile = f'ALERTS{{alertname="AssistersRetriesFutile",{of}}}'

    def goes_on():
        """Each time, or the window of the first alert, the shorter one, would be over."""
        stubborn.does("again", "api_key_revoked", 12)
        stubborn.does("flush")
        return stack.prometheus.query(futile)

    assert within(20, goes_on), "Prometheus says so"
    assert stack.webhook.of("AssistersRetriesFutile", service_name="stubborn") == []


def test_a_noisy_neighbour_s_spans_are_nobody_s_metrics(stack, app):
    """Only the API's spans are counted, so it cannot push the error codes off their page."""
    ids = noise(stack.collector, 3000)
    shop = app("beside", stack.collector.http)
    shop.does("each", "insufficient_funds")
    shop.does("flush")

    counted = 'traces_span_metrics_calls_total{service_name="beside",error_code!=""}'
    assert within(40, lambda: stack.prometheus.query(counted))
    assert stack.prometheus.query('traces_span_metrics_calls_total{service_name="noisy"}') == []
    assert within(15, lambda: stack.jaeger.trace(ids[0])), "its traces are in Jaeger"
    page = 'scrape_samples_scraped{job="collector"}'
    assert max(one["value"] for one in stack.prometheus.query(page)) < 20000
