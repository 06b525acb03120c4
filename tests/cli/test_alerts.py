"""alerts: the configurations that travel with the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

CONFIG = Path(__file__).parents[2] / "collector-config"


def test_the_alert_rules_are_printed_as_they_are(call):
    code, out, err = call("alerts")

    assert (code, err) == (0, "")
    assert out == CONFIG.joinpath("alerts.yaml").read_text()
    assert yaml.safe_load(out)["groups"]


@pytest.mark.parametrize("columns", [20, 200])
def test_no_line_of_the_rules_is_wrapped_in_a_terminal(call, columns):
    out = call("alerts", COLUMNS=str(columns)).out

    assert out == CONFIG.joinpath("alerts.yaml").read_text()


@pytest.mark.parametrize("file", ["dashboard.json", "collector.yaml", "targets/collector.yaml"])
def test_every_other_file_is_printed_by_its_name(call, file):
    assert call("alerts", file).out == CONFIG.joinpath(file).read_text()


def test_as_json_it_is_one_document(call):
    told = json.loads(call("--json", "alerts", "jaeger-ui.json").out)

    assert told["file"] == "jaeger-ui.json"
    assert json.loads(told["text"])


@pytest.mark.parametrize("file", ["rules.yaml", "../pyproject.toml", "/etc/passwd", "targets"])
def test_a_name_that_is_no_file_is_answered_by_those_that_are(call, file):
    code, out, err = call("alerts", file)

    assert (code, out) == (2, "")
    assert "alerts.yaml" in err
    assert "dashboard.json" in err
