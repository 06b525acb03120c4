"""The lists of targets are right for one collector, and the comments say what is for the others."""

from __future__ import annotations

import re

import pytest
import yaml
from queries import CONFIG
from shipped import variables

HEAD = CONFIG.joinpath("prometheus.yaml").read_text().split("\nglobal:")[0]
LISTS = ("collector", "collector-telemetry")


def rows():
    """The table of set-ups in prometheus.yaml: what each list is to be."""
    cells = [re.split(r" {2,}", line.lstrip("# ")) for line in HEAD.splitlines()]
    return {row[0]: dict(zip(LISTS, row[1:], strict=True)) for row in cells if len(row) == 3}


def shipped(name):
    """The addresses in a list."""
    groups = yaml.safe_load(CONFIG.joinpath(f"targets/{name}.yaml").read_text())
    return [address for group in groups for address in group["targets"]]


def scraped_for_apps(name):
    """Whether a config has an exporter that Prometheus scrapes."""
    config = yaml.safe_load(CONFIG.joinpath(f"{name}.yaml").read_text())
    return "prometheus" in config["exporters"]


def test_as_shipped_they_name_what_the_one_collector_listens_at():
    read = variables("collector")
    telemetry = f"{read['COLLECTOR_TELEMETRY_HOST']}:{read['COLLECTOR_TELEMETRY_PORT']}"

    assert shipped("collector") == [read["PROMETHEUS_EXPORTER_LISTEN"]]
    assert shipped("collector-telemetry") == [telemetry]
    assert set(rows()["one collector"].values()) == {"as shipped"}


def test_without_a_collector_both_are_empty():
    assert set(rows()["no collector"].values()) == {"[]"}


def test_agents_and_gateways_are_asked_for_their_telemetry_alone():
    row = rows()["agents and gateways"]
    ports = [variables(name)["COLLECTOR_TELEMETRY_PORT"] for name in ("agent", "gateway")]

    assert not scraped_for_apps("agent")
    assert not scraped_for_apps("gateway")
    assert row["collector"] == "[]"
    assert re.findall(r"\d+", row["collector-telemetry"]) == ports


@pytest.mark.parametrize("name", LISTS)
def test_a_list_says_when_it_is_to_be_empty(name):
    said = " ".join(CONFIG.joinpath(f"targets/{name}.yaml").read_text().split("\n# "))

    assert "write [] in place of the list" in said
    assert "AssistersCollectorDown" in said
