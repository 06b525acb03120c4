"""Every shipped file is accepted by the server that it is for, by its own checker."""

from __future__ import annotations

import os
import subprocess

import build
import pytest
from servers import CONFIG


def passes(name, *arguments, **environment):
    done = subprocess.run(
        [build.binary(name), *arguments],
        cwd=CONFIG,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", ["collector", "agent", "gateway"])
def test_the_collector_takes_its_configs(name, tmp_path):
    ends = [f"{end}_TLS_{part}" for end in ("GATEWAY", "AGENT") for part in ("CERT", "KEY")]
    paths = {variable: str(tmp_path / variable) for variable in ("TLS_CA", *ends)}
    paths["QUEUE_DIRECTORY"] = str(tmp_path)

    told = passes("otelcol", "validate", "--config", f"{name}.yaml", **paths)

    assert "deprecated" not in told


def test_jaeger_takes_its_config():
    assert "error" not in passes("jaeger", "validate", "--config", "jaeger.yaml").lower()


def test_a_gateway_without_certificates_does_not_start():
    with pytest.raises(AssertionError, match="certificate and key"):
        passes("otelcol", "validate", "--config", "gateway.yaml")


def test_promtool_takes_the_rules():
    assert "SUCCESS" in passes("promtool", "check", "rules", "--lint=all", "alerts.yaml")


def test_promtool_takes_the_configuration():
    assert "SUCCESS" in passes("promtool", "check", "config", "prometheus.yaml")


def test_the_rules_do_what_their_tests_say():
    passes("promtool", "test", "rules", "alerts_test.yaml")


def test_amtool_takes_the_configuration():
    assert "3 receivers" in passes("amtool", "check-config", "alertmanager.yaml")


@pytest.mark.parametrize(
    ("severity", "receiver"), [("page", "pager"), ("ticket", "tickets"), ("info", "chat")]
)
def test_an_alert_finds_who_it_is_for(severity, receiver):
    told = passes(
        "amtool", "config", "routes", "test", "--config.file=alertmanager.yaml",
        f"severity={severity}",
    )  # fmt: skip

    assert told.split() == [receiver]
