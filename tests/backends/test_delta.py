"""An app whose environment asks for delta temporality counts right, and harms nobody beside it."""

from __future__ import annotations

import pytest
from servers import within

DELTA = {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"}
EXPONENTIAL = {
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram"
}


def counts(prometheus, service, metric):
    found = prometheus.query(f'sum(assisters_client_{metric}{{service_name="{service}"}})')
    return found and found[0]["value"]


def six_errors_in_three_exports(*apps):
    for _ in range(3):
        for one in apps:
            one.does("each", "internal_error", times=2)
            one.does("flush")


def test_delta_counts_as_much_as_cumulative_through_one_collector(stack, app):
    delta = app("delta", stack.collector.http, **DELTA)
    beside = app("cumulative", stack.collector.http)

    six_errors_in_three_exports(delta, beside)

    for service in ("delta", "cumulative"):
        for metric in ("errors_total", "request_duration_seconds_count"):
            asked = (stack.prometheus, service, metric)
            assert within(15, lambda asked=asked: counts(*asked) == 6), counts(*asked)


@pytest.mark.parametrize("temporality", [{}, DELTA], ids=["cumulative", "delta"])
def test_an_exponential_histogram_is_one_that_the_rules_can_read(stack, app, temporality):
    service = f"exponential-{len(temporality)}"
    shop = app(service, stack.collector.http, **EXPONENTIAL, **temporality)

    shop.does("ok", 5)
    shop.does("give_up", 2)
    shop.does("flush")

    for metric, count in (
        ("request_duration_seconds_count", 11),
        ('request_duration_seconds_bucket{le="+Inf"}', 11),
        ("call_attempts_count", 2),
    ):
        name, _, labels = metric.partition("{")
        query = f'sum(assisters_client_{name}{{service_name="{service}",{labels or "}"})'

        def told(query=query):
            found = stack.prometheus.query(query)
            return found and found[0]["value"]

        # An export in between has fewer.
        assert within(30, lambda told=told, count=count: told() == count), (metric, told())
    le = f'count by (le) (assisters_client_call_attempts_bucket{{service_name="{service}"}})'
    assert "1.0" in {one["le"] for one in stack.prometheus.query(le)}
