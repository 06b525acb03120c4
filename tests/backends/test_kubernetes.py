"""What the files for Kubernetes hold for a server is accepted by that server's own checker."""

from __future__ import annotations

import copy

import kubernetes_files
import pytest
import yaml
from servers import free_ports
from test_configs import run, variables

__all__ = ["variables"]  # the fixture

SECTIONS = ("receivers", "processors", "exporters", "extensions", "service")


@pytest.fixture(params=kubernetes_files.COLLECTORS)
def collector(request, variables, tmp_path):
    """Check a configuration by the collector, with the variables of the chart's values."""
    values = kubernetes_files.document(request.param)
    at = {one["name"]: one["value"] for one in values["extraEnvs"]}
    files = {name: one for name, one in variables.items() if one.startswith("/")}
    ports = iter(free_ports(6))
    # No port of the test's machine is to be taken, and the secrets are mounted nowhere.
    for name in list(at):
        if name in files:
            at[name] = files[name]
        elif name.endswith("_LISTEN"):
            at[name] = f"127.0.0.1:{next(ports)}"

    def check(config):
        path = tmp_path / "relay.yaml"
        path.write_text(yaml.safe_dump(config))
        return run("otelcol", "validate", "--config", str(path), **at)

    return values["alternateConfig"], check


def test_the_collector_takes_what_the_chart_gives_it(collector):
    config, check = collector

    done = check(config)

    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stdout + done.stderr


def test_the_collector_takes_no_misspelt_field(collector):
    config, check = collector

    for section in SECTIONS:
        wrong = copy.deepcopy(config)
        inner = wrong[section]
        name = max(inner, key=lambda one: len(str(inner[one])))
        inner[name]["misspelt"] = inner[name].pop(next(iter(inner[name])))
        done = check(wrong)
        assert done.returncode != 0, section
        assert "misspelt" in done.stderr, section


def test_promtool_takes_the_groups_of_the_rule(tmp_path):
    path = tmp_path / "groups.yaml"
    path.write_text(yaml.safe_dump(kubernetes_files.document("prometheus-rule")["spec"]))

    done = run("promtool", "check", "rules", "--lint=all", str(path))

    assert done.returncode == 0, done.stdout + done.stderr
