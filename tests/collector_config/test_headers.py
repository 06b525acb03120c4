"""The commands in the heads of agent.yaml and gateway.yaml fit the files, and each other."""

from __future__ import annotations

import pytest
from shipped import command, head, variables

LOOPBACK = "127.0.0.1"


@pytest.mark.parametrize("name", ["agent", "gateway"])
def test_a_command_sets_what_has_no_default_and_nothing_that_is_not_read(name):
    read = variables(name)
    needed = {one for one, default in read.items() if not default or "is not set" in default}

    assert command(name).keys() <= read.keys()
    assert needed - {"GATEWAY_TLS_NAME"} <= command(name).keys()


def test_the_gateways_listen_where_the_agents_send():
    gateways = command("agent")["GATEWAYS"].strip("[]").split(", ")
    host, port = command("gateway")["OTLP_GRPC_LISTEN"].split(":")

    assert {one.split(":")[1] for one in gateways} == {port}
    assert host == "0.0.0.0"  # noqa: S104 - what a gateway is told, and it is behind TLS


def test_a_gateway_on_a_machine_of_its_own_sends_to_other_machines():
    own = command("gateway")

    for end in ("JAEGER_OTLP_ENDPOINT", "PROMETHEUS_OTLP_ENDPOINT"):
        assert LOOPBACK in variables("gateway")[end]
        assert LOOPBACK not in own[end]


@pytest.mark.parametrize("name", ["agent", "gateway"])
def test_prometheus_reaches_the_telemetry_that_the_head_says_it_scrapes(name):
    assert "targets/collector-telemetry.yaml" in " ".join(head(name).split())
    assert f"port {variables(name)['COLLECTOR_TELEMETRY_PORT']}" in head(name)
    assert LOOPBACK not in command(name)["COLLECTOR_TELEMETRY_HOST"]


def test_an_agent_is_told_when_the_gateways_name_is_needed():
    assert "GATEWAY_TLS_NAME" in head("agent")


@pytest.mark.parametrize("name", ["agent", "gateway", "collector", "jaeger"])
def test_without_variables_everything_stays_on_loopback(name):
    ends = {
        variable: default
        for variable, default in variables(name).items()
        if variable.endswith(("_LISTEN", "_HOST", "_ENDPOINT", "GATEWAYS"))
    }

    assert ends
    assert all(LOOPBACK in default for default in ends.values())
