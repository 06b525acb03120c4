"""Every shipped file is accepted by the server that it is for, by its own checker."""

from __future__ import annotations

import json
import os
import re
import subprocess
from urllib.request import urlopen

import build
import pytest
import rule_tests
import trustme
import yaml
from servers import CONFIG, Jaeger, free_ports

TIME_S = 300


def run(name, *arguments, **environment):
    return subprocess.run(
        [build.binary(name), *arguments],
        cwd=CONFIG,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIME_S,
    )


def passes(name, *arguments, **environment):
    done = run(name, *arguments, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def variables(tmp_path):
    """What agent.yaml and gateway.yaml need: files, and ports of nobody's."""
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    leaf.private_key_pem.write_to_path(str(tmp_path / "own.key"))
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "own.pem"))
    otlp, http, health, telemetry = free_ports(4)
    return {
        "TLS_CA": f"{tmp_path}/ca.pem",
        **{f"{end}_TLS_CERT": f"{tmp_path}/own.pem" for end in ("GATEWAY", "AGENT")},
        **{f"{end}_TLS_KEY": f"{tmp_path}/own.key" for end in ("GATEWAY", "AGENT")},
        "QUEUE_DIRECTORY": f"{tmp_path}/queue",
        "OTLP_GRPC_LISTEN": f"127.0.0.1:{otlp}",
        "OTLP_HTTP_LISTEN": f"127.0.0.1:{http}",
        "HEALTH_LISTEN": f"127.0.0.1:{health}",
        "COLLECTOR_TELEMETRY_PORT": str(telemetry),
    }


@pytest.mark.parametrize("name", ["collector", "agent", "gateway"])
def test_the_collector_takes_its_configs(name, variables):
    told = passes("otelcol", "validate", "--config", f"{name}.yaml", **variables)

    assert "deprecated" not in told


def test_jaeger_takes_its_config():
    assert "error" not in passes("jaeger", "validate", "--config", "jaeger.yaml").lower()


def page(jaeger):
    with urlopen(f"{jaeger.url}/search", timeout=10) as answer:  # noqa: S310 - our own server
        return answer.read().decode()


def test_jaeger_s_page_leads_from_a_code_to_its_advice(tmp_path):
    jaeger = Jaeger(tmp_path, JAEGER_UI_CONFIG=CONFIG / "jaeger-ui.json")
    try:
        (shown,) = re.findall(r"JAEGER_CONFIG = (.*);", page(jaeger))
    finally:
        jaeger.stop()

    assert json.loads(shown) == json.loads((CONFIG / "jaeger-ui.json").read_text())


def test_jaeger_starts_without_the_file_of_its_page(tmp_path):
    """As where jaeger.yaml alone was copied: Jaeger ends where a named file is not there."""
    jaeger = Jaeger(tmp_path)
    try:
        assert "linkPatterns" not in page(jaeger)
    finally:
        jaeger.stop()


def test_a_gateway_without_certificates_does_not_start():
    with pytest.raises(AssertionError, match="certificate and key"):
        passes("otelcol", "validate", "--config", "gateway.yaml")


@pytest.mark.parametrize("name", ["agent", "gateway"])
@pytest.mark.parametrize("value", [None, ""], ids=["unset", "empty"])
def test_an_agent_or_a_gateway_that_is_told_no_authority_ends(name, value, variables):
    """It would trust anyone else's; the gateway would take what anyone sends."""
    variables.pop("TLS_CA")
    if value is not None:
        variables["TLS_CA"] = value

    try:
        done = run("otelcol", "--config", f"{name}.yaml", **variables)
    except subprocess.TimeoutExpired:
        pytest.fail("it runs")

    assert done.returncode == 1
    assert ("TLS_CA is not set: no such file" if value is None else "is a directory") in done.stderr


def promtool(name):
    """Of that name, where it is."""
    try:
        build.binary(name)
    except build.BuildError as error:
        pytest.skip(str(error))
    return name


@pytest.mark.parametrize("name", ["promtool", "promtool-2"])
def test_promtool_takes_the_rules(name):
    assert "SUCCESS" in passes(promtool(name), "check", "rules", "--lint=all", "alerts.yaml")


def test_promtool_takes_the_configuration():
    assert "SUCCESS" in passes("promtool", "check", "config", "prometheus.yaml")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("promtool", "alerts_test.yaml"),
        ("promtool", "scenarios_test.yaml"),
        ("promtool-2", "scenarios_test.yaml"),  # a server that has no created timestamps
        ("promtool", "days_test.yaml"),
        ("promtool", "forms_test.yaml"),
    ],
)
def test_the_rules_do_what_their_tests_say(rules_tested, name, file):
    done = rules_tested[promtool(name), file].result()

    assert yaml.safe_load((CONFIG / file).read_text())["rule_files"] == [rule_tests.RULES]

    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_amtool_takes_the_configuration():
    assert "4 receivers" in passes("amtool", "check-config", "alertmanager.yaml")


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ("severity=page", "pager"),
        ("severity=ticket", "tickets"),
        ("severity=info", "chat"),
        ("alertname=AssistersWatchdog", "watchdog"),
        ("alertname=AssistersNothingSucceeds", "pager"),
    ],
)
def test_an_alert_finds_who_it_is_for(labels, receiver):
    told = passes(
        "amtool", "config", "routes", "test", "--config.file=alertmanager.yaml", labels
    )  # fmt: skip

    assert told.split() == [receiver]
