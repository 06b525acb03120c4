"""Two agents and two gateways, as they are shipped: TLS between them, queues on disk."""

from __future__ import annotations

import secrets
import ssl
import time
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import trustme
from servers import CONFIG, Collector, Jaeger, Prometheus, within

DECISION_WAIT_S = 3


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet")
    authority = trustme.CA()
    # With words, as openssl writes it: the agent's config reads it as a part of itself.
    words = "# of ours\nsubject: CN = ours\n"
    (folder / "ca.pem").write_text(words + authority.cert_pem.bytes().decode())
    for name in ("gateway", "agent"):
        leaf = authority.issue_cert("127.0.0.1", common_name=name)
        leaf.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        leaf.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
    with ExitStack() as ends:

        def start(server, *args, **options):
            one = server(*args, **options)
            ends.callback(one.stop)
            return one

        jaeger = start(Jaeger, folder)
        targets = {"collector": [], "collector-telemetry": [], "alertmanagers": []}
        prometheus = start(Prometheus, folder, rules=CONFIG / "alerts.yaml", targets=targets)
        gateways = [
            start(
                Collector,
                folder,
                "gateway.yaml",
                JAEGER_OTLP_ENDPOINT=jaeger.otlp,
                PROMETHEUS_OTLP_ENDPOINT=f"{prometheus.url}/api/v1/otlp",
                TLS_CA=folder / "ca.pem",
                GATEWAY_TLS_CERT=folder / "gateway.pem",
                GATEWAY_TLS_KEY=folder / "gateway.key",
                QUEUE_DIRECTORY=folder / f"gateway-{number}",
                DECISION_WAIT=f"{DECISION_WAIT_S}s",
                SLOW_TRACE_MS=1000,
            )
            for number in range(2)
        ]
        agents = [
            start(
                Collector,
                folder,
                "agent.yaml",
                GATEWAYS=f"[{', '.join(one.grpc.removeprefix('http://') for one in gateways)}]",
                TLS_CA=folder / "ca.pem",
                AGENT_TLS_CERT=folder / "agent.pem",
                AGENT_TLS_KEY=folder / "agent.key",
                QUEUE_DIRECTORY=folder / f"agent-{number}",
            )
            for number in range(2)
        ]
        yield SimpleNamespace(
            jaeger=jaeger,
            prometheus=prometheus,
            gateways=gateways,
            agents=agents,
            folder=folder,
            authority=authority,
        )


def _kept(fleet, ids):
    return [one for one in ids if fleet.jaeger.trace(one)]


def _services(spans, fleet, trace):
    found = fleet.jaeger.trace(trace)
    return len(found) == spans and found


def test_a_trace_of_two_processes_meets_in_one_gateway(fleet, app):
    """The error is the second process's alone: the first one's spans are kept for it."""
    first = app("front", fleet.agents[0].http)
    second = app("back", fleet.agents[1].http)
    ids = first.does("firsts", 10)
    for one in ids:
        second.does("part", f"00-{one}-{secrets.token_hex(8)}-01", "api_key_revoked")
    first.does("flush")
    second.does("flush")

    for one in ids:  # ten ids, so that both gateways have some
        assert within(30, lambda one=one: _services(3, fleet, one)), fleet.jaeger.trace(one)


def test_a_success_is_gone_and_each_error_and_resend_is_there(fleet, app):
    shop = app("shop", fleet.agents[0].http)
    fine = shop.does("firsts", 200)
    wrong = shop.does("firsts", 20, "insufficient_funds")
    assert shop.does("recovered") == "ok"
    shop.does("again", "ok", 1)
    shop.does("flush")

    assert within(30, lambda: len(_kept(fleet, wrong)) == 20)
    assert within(30, lambda: fleet.jaeger.search("shop", assisters_call_outcome="recovered"))
    kept = len(_kept(fleet, fine))
    assert kept < 20, "one in a hundred is kept; twenty of two hundred come once in 10^12 runs"

    def counted():
        of = '{service_name="shop",span_name="GET /v1/models"}'
        found = fleet.prometheus.query(f"sum(traces_span_metrics_calls_total{of})")
        return found and found[0]["value"] == 220

    assert within(40, counted), "the API's spans are counted before the sampling"
    work = 'traces_span_metrics_calls_total{span_name="work"}'
    assert fleet.prometheus.query(work) == [], "the app's own are not counted"
    errors = 'sum(assisters_client_errors_total{service_name="shop",error_code!=""})'
    assert within(20, lambda: fleet.prometheus.query(errors))[0]["value"] >= 22


def test_a_trace_in_which_the_app_fails_and_a_slow_one_are_kept(fleet, app):
    shop = app("unlucky", fleet.agents[0].http)
    (failed,) = shop.does("work", fails=True)
    (slow,) = shop.does("work", takes_s=1.2)
    shop.does("flush")

    assert within(30, lambda: fleet.jaeger.trace(failed))
    assert within(30, lambda: fleet.jaeger.trace(slow))


def test_delta_counts_as_much_as_cumulative_and_costs_its_neighbour_nothing(fleet, app):
    """Prometheus refuses a batch with a delta in it, and whatever else is in that batch."""
    apps = [
        app(
            "delta", fleet.agents[0].http, OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta"
        ),
        app("cumulative", fleet.agents[0].http),
    ]
    for _ in range(3):
        for one in apps:
            one.does("each", "internal_error", times=2)
            one.does("flush")

    def counted(service):
        query = f'sum(assisters_client_errors_total{{service_name="{service}"}})'
        found = fleet.prometheus.query(query)
        return found and found[0]["value"] == 6

    assert within(30, lambda: counted("cumulative"))
    assert within(30, lambda: counted("delta"))


def test_a_gateway_that_is_stopped_delivers_what_it_holds(fleet, app):
    shop = app("stopped", fleet.agents[1].http)
    wrong = shop.does("firsts", 40, "insufficient_funds")
    shop.does("flush")
    time.sleep(DECISION_WAIT_S / 2)  # they lie in the gateways, undecided

    code = fleet.gateways[0].stop()
    fleet.gateways[0].start()

    assert code == 0
    assert within(30, lambda: len(_kept(fleet, wrong)) == 40), len(_kept(fleet, wrong))


def test_a_gateway_that_is_killed_loses_no_more_than_it_held(fleet, app):
    shop = app("killed", fleet.agents[0].http)
    before = shop.does("firsts", 40, "insufficient_funds")
    shop.does("flush")
    assert within(30, lambda: len(_kept(fleet, before)) == 40)
    held = shop.does("firsts", 40, "tokens_exhausted")
    shop.does("flush")
    time.sleep(DECISION_WAIT_S / 2)

    fleet.gateways[1].kill()
    during = shop.does("firsts", 40, "origin_not_allowed")
    shop.does("flush")
    fleet.gateways[1].start()

    assert within(60, lambda: len(_kept(fleet, during)) == 40), len(_kept(fleet, during))
    assert len(_kept(fleet, before)) == 40
    survived = len(_kept(fleet, held))
    assert survived >= 10, "the other gateway held some of them"


def test_what_an_agent_has_acknowledged_survives_its_end(fleet, app):
    shop = app("far", fleet.agents[0].http)
    for gateway in fleet.gateways:
        gateway.stop()
    wrong = shop.does("firsts", 20, "insufficient_funds")
    shop.does("flush")
    time.sleep(2)

    fleet.agents[0].kill()
    fleet.agents[0].start()
    for gateway in fleet.gateways:
        gateway.start()

    assert within(60, lambda: len(_kept(fleet, wrong)) == 20), len(_kept(fleet, wrong))


def test_a_gateway_that_is_reached_by_address_needs_its_name_said(fleet, app, tmp_path):
    leaf = fleet.authority.issue_cert("gateways.example")
    leaf.private_key_pem.write_to_path(str(tmp_path / "named.key"))
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "named.pem"))
    with ExitStack() as ends:

        def start(queue, config, **variables):
            one = Collector(
                tmp_path,
                config,
                TLS_CA=fleet.folder / "ca.pem",
                QUEUE_DIRECTORY=tmp_path / queue,
                **variables,
            )
            ends.callback(one.stop)
            return one

        gateway = start(
            "gateway",
            "gateway.yaml",
            JAEGER_OTLP_ENDPOINT=fleet.jaeger.otlp,
            PROMETHEUS_OTLP_ENDPOINT=f"{fleet.prometheus.url}/api/v1/otlp",
            GATEWAY_TLS_CERT=tmp_path / "named.pem",
            GATEWAY_TLS_KEY=tmp_path / "named.key",
            DECISION_WAIT="1s",
        )
        own = {
            "GATEWAYS": f"[{gateway.grpc.removeprefix('http://')}]",
            "AGENT_TLS_CERT": fleet.folder / "agent.pem",
            "AGENT_TLS_KEY": fleet.folder / "agent.key",
        }
        ignorant = start("ignorant", "agent.yaml", **own)
        told = start("told", "agent.yaml", **own, GATEWAY_TLS_NAME="gateways.example")

        shop = app("named", told.http)
        (wrong,) = shop.does("firsts", 1, "insufficient_funds")
        shop.does("flush")
        assert within(30, lambda: fleet.jaeger.trace(wrong))
        assert within(20, lambda: "cannot validate certificate" in ignorant.log.read_text())


def test_a_gateway_takes_nothing_from_a_stranger(fleet):
    host, port = fleet.gateways[0].grpc.removeprefix("http://").split(":")
    context = ssl.create_default_context(cafile=str(fleet.folder / "ca.pem"))
    context.set_alpn_protocols(["h2"])

    with pytest.raises((ssl.SSLError, ConnectionError)):  # noqa: PT012 - TLS 1.3 refuses at the read
        import socket

        with (
            socket.create_connection((host, int(port)), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname=host) as stranger,
        ):
            stranger.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            if not stranger.recv(1):
                raise ConnectionResetError
