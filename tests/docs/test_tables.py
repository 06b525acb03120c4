"""The tables of the documentation say what the code says."""

from __future__ import annotations

import inspect
import re

import known_names
import pytest
import tables
import yaml
from pages import DOCS, ROOT, blocks, rows
from queries import rules

import assisters_otel
import test_layers
from assisters_otel.clients.all_clients import HTTP_CLIENTS
from assisters_otel.explanation.explain import NOBODY, SIDES, Explanation
from assisters_otel.semconv import environment, metrics
from assisters_otel.sinks.gen_ai_span import FRAMEWORK_SCOPES, SDK_SCOPES
from assisters_otel.testing import FakeApi
from assisters_otel.testing.retry_policy import rules as retry_rules

SOURCE = ROOT / "src" / "assisters_otel"
PAGE = {page.stem: page for page in DOCS}
ALERTS = PAGE["alerts"]
CONFIGURATION = PAGE["configuration"]


def first_names(page, head):
    """Return what stands in back-ticks in the first cells of a table."""
    return [name for row in rows(page, head) for name in re.findall("`(.+?)`", row[0])]


@pytest.mark.parametrize(
    ("path", "head", "expected"), tables.tables(), ids=[one[1] for one in tables.tables()]
)
def test_a_reference_table_is_what_the_code_says(path, head, expected):
    assert rows(path, head) == expected, "python tests/docs/tables.py writes it"


def test_the_script_writes_rows_into_a_table_and_leaves_the_rest():
    page = "# Spans\n\n| code | status |\n|---|---|\n| old | 1 |\n| older | 2 |\n\nText.\n"

    changed = tables.written(page, "code", [["new", "3"]])

    assert changed == "# Spans\n\n| code | status |\n|---|---|\n| new | 3 |\n\nText.\n"


def test_every_alert_is_in_the_table_with_its_severity_and_has_a_heading():
    expected = {rule["alert"]: rule["labels"]["severity"] for rule in rules("alert")}
    listed = {re.findall("`(.+?)`", row[0])[0]: row[1] for row in rows_of_alerts(-1)}
    headings = re.findall(r"^### (Assisters\w+)$", ALERTS.read_text("utf-8"), re.MULTILINE)

    assert listed == expected
    assert sorted(headings) == sorted(expected)


def rows_of_alerts(number):
    """Return the rows of one of the page's two tables of alerts: the first three, or all."""
    text = ALERTS.read_text("utf-8").split("| alert | severity | fires when |\n")[number]
    lines = text.splitlines()[1:]
    return [line.strip("| ").split(" | ") for line in lines[: lines.index("")]]


def test_the_first_three_alerts_are_the_same_on_both_pages():
    expected = [row[0].replace("(#", "(docs/alerts.md#") for row in rows_of_alerts(1)]

    assert len(expected) == 3
    assert [row[0] for row in rows(ROOT / "README.md", "alert")] == expected
    assert {row[0] for row in rows_of_alerts(1)} < {row[0] for row in rows_of_alerts(-1)}


def test_what_holds_an_alert_back_is_what_alertmanager_says():
    configuration = yaml.safe_load((ROOT / "collector-config" / "alertmanager.yaml").read_text())
    expected: dict[str, set[str]] = {}
    for one in configuration["inhibit_rules"]:
        (source,), (target,) = one["source_matchers"], one["target_matchers"]
        for name in re.findall(r"Assisters\w+", target):
            expected.setdefault(name, set()).update(re.findall(r"Assisters\w+", source))
    told = {}
    for section in ALERTS.read_text("utf-8").split("\n### ")[1:]:
        held = section.partition("Held back by ")[2].partition("\n\n")[0]
        if held:
            told[section.split()[0]] = set(re.findall(r"\[(Assisters\w+)\]", held))

    assert told == expected


@pytest.mark.parametrize("of", ["cancelled_share"])
def test_a_threshold_that_a_page_names_is_there(of):
    assert f"`{of}`" in ALERTS.read_text("utf-8")
    assert {rule.get("labels", {}).get("of") for rule in rules("record")} >= {of}


def test_the_table_of_rules_has_every_rule_of_check_retries():
    assert first_names(PAGE["testing"], "rule") == list(retry_rules.NAMES)
    assert {row[1] for row in rows(PAGE["testing"], "rule")} == {"error", "remark"}


def test_every_argument_of_init_is_in_its_table():
    told = set(first_names(CONFIGURATION, "argument of `init`"))

    assert told == set(inspect.signature(assisters_otel.init).parameters)


def test_every_variable_of_the_library_is_on_the_page():
    text = CONFIGURATION.read_text("utf-8")

    for variable in known_names.variables():
        if variable.startswith("ASSISTERS_") or variable in {
            environment.OTEL_DISABLED_INSTRUMENTATIONS,
            environment.OTEL_SDK_DISABLED,
        }:
            assert variable in text, variable


def test_every_variable_that_http_spans_follow_is_in_its_table():
    written = set()
    for name in first_names(CONFIGURATION, "variable"):
        before, _, several = name.partition("{")
        each, _, after = several.partition("}")
        written |= {f"{before}{one}{after}" for one in each.split(",")}

    assert written == {
        environment.OTEL_CAPTURE_ALL_METHODS,
        environment.OTEL_CAPTURE_REQUEST_HEADERS,
        environment.OTEL_CAPTURE_RESPONSE_HEADERS,
        environment.OTEL_EXCLUDED_URLS,
        environment.OTEL_KNOWN_METHODS,
        environment.OTEL_SANITIZE_FIELDS,
        *(environment.OTEL_EXCLUDED_URLS_OF.format(one.variable) for one in HTTP_CLIENTS.values()),
    }


def test_every_name_of_the_package_is_in_its_table():
    told = set(first_names(CONFIGURATION, "name of `assisters_otel`"))

    assert told == set(assisters_otel.__all__)


def test_every_command_is_in_its_table():
    told = {name.removeprefix("assisters-otel ") for name in first_names(CONFIGURATION, "command")}

    assert told == set(known_names.commands())


def test_every_field_of_an_explanation_is_in_its_table():
    (side,) = [row[1] for row in rows(PAGE["errors"], "field") if row[0] == "`side`"]

    assert first_names(PAGE["errors"], "field") == list(Explanation._fields)
    assert re.findall("`(.+?)`", side) == [one for one in SIDES if one != NOBODY]


def test_who_records_a_gen_ai_metric_is_on_the_page():
    kinds = [metrics.OPERATION_DURATION.name, metrics.TOKEN_USAGE.name, metrics.FIRST_CHUNK.name]
    listed = {
        scope: [told == "the other" for told in row[1:]]
        for row in rows(PAGE["with-others"], "scope of the span on or around the call")
        for scope in re.findall("`(.+?)`", row[0])
    }
    scopes = {**SDK_SCOPES, **FRAMEWORK_SCOPES}

    assert listed == {
        scope: [kind in recorded for kind in kinds] for scope, recorded in scopes.items()
    }


def test_every_argument_of_a_fake_answer_in_the_table_is_one():
    told = {name.partition("=")[0] for name in first_names(PAGE["testing"], "argument")}

    assert told < set(inspect.signature(FakeApi.answers).parameters)


def test_the_packages_are_in_the_order_in_which_they_import_each_other():
    rank = {name: number for number, row in enumerate(test_layers.ORDER) for name in row}
    told = [re.findall(r"\[(\w+)\]", row[0])[0] for row in rows(PAGE["how-it-works"], "package")]

    assert [rank[name] for name in told] == sorted(rank[name] for name in told)
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert packages - {"otel_api", "pyinstaller_hooks", "variables"} <= set(told)


def test_every_module_of_the_drawing_is_there():
    (drawing,) = [one for one in blocks(PAGE["how-it-works"]) if one.language == "text"]
    named = re.findall(r"[a-z_]+/[a-z_…/]*(?:\.py)?", drawing.text)

    assert len(named) > 10
    for name in named:
        assert list(SOURCE.glob(name.replace("…", "*"))), name


def test_every_extra_is_in_the_table_of_what_to_install():
    told = set()
    for row in rows(ROOT / "README.md", "you use"):
        for of in re.findall(r"'\.\[(.+?)\]'", row[1]):
            told |= set(of.split(","))

    assert told == known_names.extras() - {"requests", "aiohttp"}


def test_every_example_is_in_the_table_of_examples():
    page = ROOT / "examples" / "README.md"
    linked = re.findall(r"\]\((\w+\.py)\)", page.read_text("utf-8"))

    assert sorted(set(linked)) == sorted(path.name for path in page.parent.glob("*.py"))


NOT_ON_THE_PAGE = {"minimum_attempts", "burn_page_minimum", "burn_ticket_minimum", "page_samples"}
"""Thresholds that say from how much traffic on an alert judges, not when it fires."""


def thresholds():
    """Yield each alert with a threshold that it asks for, and the threshold's value."""
    values = {
        rule["labels"]["of"]: float(re.findall(r"vector\((.+)\)", rule["expr"])[0])
        for rule in rules("record")
        if rule["record"] == "assisters:threshold"
    }
    for rule in rules("alert"):
        for of in sorted(set(re.findall(r'assisters:threshold{of="(\w+)"}', rule["expr"]))):
            if of in values and of not in NOT_ON_THE_PAGE:
                yield rule["alert"], of, values[of]


def forms(of, value):
    """Return the ways in which a page may say a threshold."""
    if of == "internal_error_budget":
        return {f"{100 - value * 100:g} %", f"{14.4 * value * 100:g} %"}  # an hour's burn rate
    words = {3: "three", 10: "ten", 0.5: "half"}
    return {
        f"{value * 100:g} %",
        f"{value:g} s",
        f"than {value:g} times",
        words.get(value, f"{value:g} "),
    }


@pytest.mark.parametrize(("alert", "of", "value"), [*thresholds()], ids=str)
def test_a_threshold_is_on_the_page_as_it_is_in_the_rules(alert, of, value):
    text = ALERTS.read_text("utf-8")
    section = text.partition(f"\n### {alert}\n")[2].partition("\n### ")[0]

    assert any(form in section for form in forms(of, value)), (of, value)


def test_every_variable_of_the_collector_on_the_page_is_read_by_a_configuration():
    named = re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", PAGE["kubernetes"].read_text("utf-8"))
    own = [name for name in named if not name.startswith(("OTEL_", "ASSISTERS_"))]
    read = "".join(path.read_text("utf-8") for path in (ROOT / "collector-config").glob("*.yaml"))

    assert len(own) > 4
    for name in own:
        assert f"${{env:{name}" in read, name
