"""The README's tables say what the code says."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import assisters_otel
from assisters_otel import catalog
from assisters_otel.clients.aiohttp.adapter import AiohttpAdapter
from assisters_otel.clients.httpx.adapter import HttpxAdapter
from assisters_otel.clients.requests.adapter import RequestsAdapter
from assisters_otel.semconv import attributes as names
from assisters_otel.semconv import environment
from assisters_otel.semconv import metrics as metric_names
from assisters_otel.testing.retry_policy import rules as retry_rules

ROOT = Path(__file__).parents[1]
README = ROOT.joinpath("README.md").read_text()


def rows(head):
    """The rows of the table whose first heading is *head*, without their back-ticks."""
    lines = iter(README.splitlines())
    for line in lines:
        if line.startswith(f"| {head} |"):
            break
    next(lines)
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_the_table_of_attributes_is_names_own():
    expected = [[f"`{a.name}`", a.type, a.when, a.value] for a in names.ATTEMPT_ATTRIBUTES]

    assert rows("attribute") == expected


def test_the_table_of_a_call_s_attributes_is_names_own():
    expected = [[f"`{a.name}`", a.type, a.when, a.value] for a in names.CALL_ATTRIBUTES]

    assert rows("attribute of a call") == expected


def test_the_table_of_a_stream_s_attributes_is_names_own():
    expected = [[f"`{a.name}`", a.type, a.when, a.value] for a in names.STREAM_ATTRIBUTES]

    assert rows("attribute of a stream") == expected


def test_the_table_of_metrics_is_names_own():
    expected = [
        [f"`{m.name}`", m.instrument, f"`{m.unit}`", ", ".join(f"`{a}`" for a in m.attributes)]
        for m in metric_names.METRICS
    ]

    assert rows("metric") == expected


def test_the_table_of_errors_is_the_catalog_s():
    expected = [
        [f"`{e.code}`", str(e.status), f"`{e.type}`", "yes" if e.retryable else "no"]
        for e in catalog.ERRORS
    ]

    assert rows("code") == expected


def test_the_tables_of_alerts_are_the_rules_own():
    rules = yaml.safe_load(ROOT.joinpath("collector-config", "alerts.yaml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    page = "collector-config/README.md"
    expected = [
        [f"[`{rule['alert']}`]({page}#{rule['alert'].lower()})", rule["labels"]["severity"]]
        for rule in alerts
    ]
    first = [row[:2] for row in rows("the first three to switch on")]

    assert len(first) == 3
    assert sorted(first + [row[:2] for row in rows("alert")]) == sorted(expected)


def test_the_table_of_rules_has_every_rule_of_check_retries():
    told = [name for row in rows("rule") for name in re.findall("`(.+?)`", row[0])]

    assert told == list(retry_rules.NAMES)
    assert {row[1] for row in rows("rule")} == {"error", "remark"}


def test_every_argument_of_init_is_in_the_readme():
    told = {name for row in rows("argument of `init`") for name in re.findall("`(.+?)`", row[0])}

    assert told == set(inspect.signature(assisters_otel.init).parameters)


def test_every_variable_of_ours_is_in_the_readme():
    for variable in (
        environment.ASSISTERS_BASE_URL,
        environment.ASSISTERS_OTEL_HOSTS,
        environment.ASSISTERS_OTEL_CAPTURE_MESSAGE,
        environment.OTEL_DISABLED_INSTRUMENTATIONS,
        environment.OTEL_SDK_DISABLED,
    ):
        assert f"`{variable}" in README


def test_every_variable_that_http_spans_heed_is_in_the_readme():
    cells = " ".join(row[0] for row in rows("variable"))
    written = set()
    for name in re.findall("`(.+?)`", cells):
        before, _, several = name.partition("{")
        each, _, after = several.partition("}")
        written |= {f"{before}{one}{after}" for one in each.split(",")}

    clients = (HttpxAdapter, RequestsAdapter, AiohttpAdapter)
    assert written == {
        environment.OTEL_CAPTURE_ALL_METHODS,
        environment.OTEL_CAPTURE_REQUEST_HEADERS,
        environment.OTEL_CAPTURE_RESPONSE_HEADERS,
        environment.OTEL_EXCLUDED_URLS,
        environment.OTEL_KNOWN_METHODS,
        environment.OTEL_SANITIZE_FIELDS,
        *(environment.OTEL_EXCLUDED_URLS_OF.format(client.variable) for client in clients),
    }


def test_the_readme_s_files_and_commands_are_there():
    linked = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    commands = re.findall(r"^\$ (\.ci/\w+)", README, re.MULTILINE)

    assert set(commands) == {".ci/demo", ".ci/nightly", ".ci/test"}
    for path in [*linked, *commands]:
        assert ROOT.joinpath(path).exists(), path


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_the_readme_s_code_runs(api, tmp_path, block):
    script = tmp_path / "test_it.py"
    script.write_text(block.replace("https://api.assisters.dev/v1", api.url))
    by = ["pytest", "-q", "-p", "no:cacheprovider"] if "def test_" in block else []
    api.answers("api_key_revoked")

    done = subprocess.run(
        [sys.executable, *(["-m", *by] if by else []), script],
        env={**os.environ, "OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    if "told.advice" in block:
        assert catalog.find("api_key_revoked").advice in done.stdout


def test_ci_runs_the_readme_s_test_command():
    assert "exec .ci/test" in ROOT.joinpath(".ci/run").read_text()


def test_every_public_name_is_there():
    for name in assisters_otel.__all__:
        assert getattr(assisters_otel, name) is not None
    assert set(dir(assisters_otel)) == set(assisters_otel.__all__)
    assert not hasattr(assisters_otel, "anything_else")


def test_every_test_that_security_names_is_there():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text())

    assert len(named) > 10
    for path, name in named:
        assert f"\ndef {name}(" in (ROOT / path).read_text(), name
