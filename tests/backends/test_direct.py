"""Metrics straight from an app into Prometheus, by OTLP: the same names, the same rules."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from servers import Alertmanager, Prometheus, Webhook, free_ports, within


@pytest.fixture
def direct(quick_rules, tmp_path):
    with ExitStack() as ends:
        webhook = Webhook()
        ends.callback(webhook.close)
        alertmanager = Alertmanager(tmp_path, webhook.url)
        ends.callback(alertmanager.stop)
        targets = {
            "collector": [],
            "collector-telemetry": [],
            "alertmanagers": [alertmanager.address],
        }
        prometheus = Prometheus(tmp_path, rules=quick_rules, targets=targets)
        ends.callback(prometheus.stop)
        yield prometheus, webhook


def test_the_same_rules_fire_without_a_collector(direct, app):
    prometheus, webhook = direct
    own = {
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{prometheus.url}/api/v1/otlp/v1/metrics",
        "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION": "gzip",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
    }
    # A refused key, and having no success, silence what follows from them in the same service.
    keyed, shop = (app(name, "http://127.0.0.1:9", **own) for name in ("keyed", "straight"))

    keyed.does("each", "api_key_revoked")
    shop.does("ok", 3)
    shop.does("each", "rate_limit_exceeded", times=30)
    shop.does("ok", 3)
    shop.does("give_up", 25)
    shop.does("each", headers={"x-ratelimit-remaining-tpm": "1000"})

    for alert, service in (
        ("AssistersKeyRevoked", "keyed"),
        ("AssistersRateLimited", "straight"),
        ("AssistersCallsFailThoughRetried", "straight"),
        ("AssistersHeadroomLow", "straight"),
    ):
        arrived = within(30, lambda alert=alert: webhook.of(alert))
        assert arrived, (alert, prometheus.alerts())
        assert arrived[0]["labels"]["service_name"] == service
        assert arrived[0]["labels"]["deployment_environment_name"] == "test"
    assert webhook.of("AssistersKeyRevoked")[0]["labels"]["error_code"] == "api_key_revoked"
    assert webhook.of("AssistersCollectorDown") == []


@pytest.mark.parametrize("name", ["collector", "collector-telemetry"])
def test_a_collector_that_is_not_there_pages_until_its_list_is_empty(direct, name):
    prometheus, webhook = direct
    (port,) = free_ports(1)
    alert = "AssistersCollectorDown"

    prometheus.target(name, [f"127.0.0.1:{port}"])
    assert within(30, lambda: webhook.of(alert)), prometheus.alerts()
    (prometheus.targets / f"{name}.yaml").write_text("[] # as prometheus.yaml says\n")

    assert within(60, lambda: webhook.of(alert, "resolved")), prometheus.alerts()
