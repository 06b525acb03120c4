"""A collector that goes and comes back costs no count, and the app does not notice."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest
from servers import CONFIG, FEATURES, Collector, Jaeger, Prometheus, never, within


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("restarts")
    with ExitStack() as ends:
        jaeger = Jaeger(folder)
        ends.callback(jaeger.stop)
        collector = Collector(folder, JAEGER_OTLP_ENDPOINT=jaeger.otlp)
        ends.callback(collector.stop)
        targets = {
            "collector": [collector.exporter],
            "collector-telemetry": [],
            "alertmanagers": [],
        }
        prometheus = Prometheus(folder, rules=CONFIG / "alerts.yaml", targets=targets)
        ends.callback(prometheus.stop)
        yield jaeger, collector, prometheus


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_collector_that_comes_back_costs_no_count(world, app, end):
    jaeger, collector, prometheus = world
    service = f"through-{end}"
    shop = app(service, collector.http)
    query = f'sum(assisters_client_errors_total{{service_name="{service}"}})'

    def counted(errors):
        found = prometheus.query(query)
        return bool(found) and found[0]["value"] == errors

    shop.does("each", "api_key_revoked", times=10)
    assert within(20, lambda: counted(10))

    getattr(collector, end)()
    assert shop.does("each", "internal_error", times=10) == 10
    during_s = shop.took_s
    collector.start()
    (trace,) = shop.does("firsts", 1, "insufficient_funds")
    after_s = shop.took_s

    assert within(20, lambda: counted(21)), prometheus.query(query)
    assert within(20, lambda: jaeger.trace(trace))
    assert within(20, lambda: jaeger.search(service, error_code="insufficient_funds"))
    # Ten answers from loopback take some milliseconds; an exporter that held them up, ten seconds.
    assert during_s < 5
    assert after_s < 5
    assert shop.close() == 0
    assert not [line for line in shop.errors if "Traceback" in line]
    assert len([line for line in shop.errors if "does not get through" in line]) <= 1


def test_spans_of_a_short_absence_are_sent_again(world, app):
    """The exporter tries again: what it cannot deliver within its time is lost, and is said."""
    jaeger, collector, _ = world
    shop = app("patient", collector.http)
    collector.stop()
    (trace,) = shop.does("firsts", 1, "model_overloaded")

    collector.start()

    assert within(15, lambda: jaeger.trace(trace))


def test_a_new_prometheus_takes_no_old_error_for_a_new_one(world, app, quick_rules, tmp_path):
    """One as shipped, and one that takes no created timestamps, as older ones."""
    _, collector, first = world
    shop = app("old", collector.http)
    shop.does("each", "api_key_revoked", times=3)
    counted = 'sum(assisters_client_errors_total{service_name="old"})'
    assert within(20, lambda: first.query(counted))
    time.sleep(12)  # longer than a quick rule's window: what is in it is new to anyone
    targets = {
        "collector": [collector.exporter],
        "collector-telemetry": [collector.telemetry],
        "alertmanagers": [],
    }

    def alerts(service):
        of = f'{{alertname="AssistersKeyRevoked",service_name="{service}"}}'
        return [bool(one.query(f"ALERTS{of}")) for one in servers]

    with ExitStack() as ends:
        servers = []
        for features in ("exemplar-storage", FEATURES):
            servers.append(
                Prometheus(tmp_path, rules=quick_rules, targets=targets, features=features)
            )
            ends.callback(servers[-1].stop)
        assert within(10, lambda: all(one.query(counted) for one in servers))
        assert never(25, lambda: any(alerts("old")))

        shop.does("each", "api_key_revoked")
        shop.does("flush")
        fresh = app("fresh", collector.http)
        fresh.does("each", "api_key_revoked")
        fresh.does("flush")

        assert within(10, lambda: all(alerts("old")))
        assert within(10, lambda: all(alerts("fresh"))), "born at 1, in a process of its own"
