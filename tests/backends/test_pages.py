"""Each configuration and query of the documentation is accepted by the server that it is for."""

from __future__ import annotations

import os
import subprocess

import build
import pytest
import yaml
from pages import all_blocks
from servers import CONFIG

DOCUMENTS = [(block, yaml.safe_load(block.text)) for block in all_blocks("yaml")]
COLLECTOR = [block for block, document in DOCUMENTS if "exporters" in document]
PROMETHEUS = [block for block, document in DOCUMENTS if "scrape_configs" in document]
OF_OTHERS = {"otlp_config", "env", "instrumentation/development"}
"""What stands first in a document of another reader: Datadog's agent, the SDK, Kubernetes."""


def run(name, *arguments, **environment):
    done = subprocess.run(
        [build.binary(name), *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


def test_every_document_is_tried_or_is_of_a_server_that_is_not_here():
    tried = {*COLLECTOR, *PROMETHEUS}

    assert {
        next(iter(document)) for block, document in DOCUMENTS if block not in tried
    } == OF_OTHERS


@pytest.mark.parametrize("block", COLLECTOR, ids=str)
@pytest.mark.parametrize("fault", ["", "  no_such_exporter: {}\n"], ids=["as it is", "misspelt"])
def test_the_collector_takes_a_file_beside_the_shipped_one(tmp_path, block, fault):
    added = tmp_path / "backend.yaml"
    added.write_text(block.text.replace("exporters:\n", f"exporters:\n{fault}", 1))

    code, told = run(
        "otelcol", "validate", "--config", CONFIG / "collector.yaml", "--config", added,
        BACKEND_OTLP_ENDPOINT="http://127.0.0.1:9", BACKEND_API_KEY="k",
    )  # fmt: skip

    assert (code == 0) is (not fault), told
    assert not fault or "no_such_exporter" in told


@pytest.mark.parametrize("block", PROMETHEUS, ids=str)
def test_prometheus_takes_a_configuration(tmp_path, block):
    file = tmp_path / "prometheus.yaml"
    file.write_text(block.text)

    code, told = run("promtool", "check", "config", file)

    assert code == 0, told


def test_prometheus_takes_every_query(tmp_path):
    queries = all_blocks("promql")
    rules = [{"record": f"page:query:{n}", "expr": block.text} for n, block in enumerate(queries)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "pages", "rules": rules}]}))

    code, told = run("promtool", "check", "rules", file)

    assert queries
    assert code == 0, told
