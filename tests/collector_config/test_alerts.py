"""The alert rules say what the catalog says, of what names.py sends."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from queries import CONFIG, asked, matchers, queries_told, recorded, rules, series, wrong_names

from assisters_otel import catalog

ALERTS = rules("alert")
README = Path(__file__).parents[2].joinpath("README.md").read_text()
PROMTOOL = yaml.safe_load(CONFIG.joinpath("alerts_test.yaml").read_text())
TESTS = PROMTOOL["tests"]
KINDS = {"error_code", "error_type", "assisters_retry_reason"}
"""What tells one kind of failure from another."""
ONE_BY_ONE = "AssistersCallerMistakes"
"""Whose codes have advice of their own, and go to whom their label says."""


def codes_of(rule):
    """The documented codes that an alert is about; a share's are in the rule it is recorded by."""
    found = set()
    for one in (rule, *recorded(rule["expr"])):
        for operator, value in matchers(one["expr"], "error_code"):
            if operator in {"MatchOp.Equal", "MatchOp.Re"}:
                found |= {e.code for e in catalog.ERRORS if re.fullmatch(value, e.code)}
    return found


def fired(alert):
    """What fires of an alert in its tests."""
    return [
        one
        for test in TESTS
        for expected in test["alert_rule_test"]
        if expected["alertname"] == alert
        for one in expected["exp_alerts"]
    ]


@pytest.mark.parametrize("query", asked(), ids=lambda query: query.of)
def test_every_name_that_is_asked_for_is_sent(query):
    assert wrong_names(query.expr, series()) == []


def test_a_name_that_is_not_sent_is_found():
    known = series()

    assert wrong_names("sum(rate(assisters_client_error_total[5m]))", known)
    assert wrong_names('sum(rate(assisters_client_errors_total{code="x"}[5m]))', known)
    assert wrong_names("sum by (pod) (rate(assisters_client_errors_total[5m]))", known)


def test_every_code_of_the_catalog_is_treated_by_an_alert():
    treated = {code for rule in ALERTS for code in codes_of(rule)}

    assert treated == {error.code for error in catalog.ERRORS}


def test_the_codes_that_are_documented_are_the_catalog_s():
    (rule,) = [rule for rule in ALERTS if rule["alert"] == "AssistersUndocumentedError"]
    known = [v for op, v in matchers(rule["expr"], "error_code") if op == "MatchOp.NotRe"]

    assert known
    assert all(value.split("|") == [error.code for error in catalog.ERRORS] for value in known)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_what_to_do_and_where_to_read_on(rule):
    name = rule["alert"]
    advice = [catalog.find(code).advice for code in codes_of(rule)]

    assert rule["labels"]["severity"] in {"page", "ticket"}
    told = rule["annotations"]
    assert any(code in told["summary"] for code in codes_of(rule)) or re.search(
        r"[Ee]rror code|error_code|error_type|retry_reason|rate_limit_exceeded", told["summary"]
    )
    for one in advice:
        assert one in told["description"]
    assert told["runbook_url"].endswith(f"#{name.lower()}")
    assert f'<a id="{name.lower()}"></a>`{name}`' in README


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not(rule):
    mine = [
        expected["exp_alerts"]
        for test in TESTS
        for expected in test["alert_rule_test"]
        if expected["alertname"] == rule["alert"]
    ]

    assert any(mine)
    assert not all(mine)


@pytest.mark.parametrize(
    "rule",
    [r for r in ALERTS if "assisters:threshold" in r["expr"]],
    ids=lambda rule: rule["alert"],
)
def test_a_threshold_holds_for_the_sum_of_the_kinds(rule):
    """Two kinds at 4 % each are 8 %: an alert of its own for each would leave both below 5 %."""
    kinds = {name for one in fired(rule["alert"]) for name in KINDS & one["exp_labels"].keys()}

    if len(codes_of(rule)) == 1 or rule["alert"] == ONE_BY_ONE:
        assert kinds <= {"error_code"}
    else:
        assert not kinds


@pytest.mark.parametrize(
    "rule", [r for r in ALERTS if queries_told(r)], ids=lambda rule: rule["alert"]
)
def test_the_kinds_that_are_told_are_those_that_are_summed(rule):
    summed = {one["record"] for one in recorded(rule["expr"])}
    told = {one["record"] for query in queries_told(rule) for one in recorded(query)}

    assert told
    assert told <= summed
    assert KINDS & {name for record in told for name in series()[record]}
    mixes = [one for one in fired(rule["alert"]) if ", " in one["exp_annotations"]["summary"]]
    assert mixes, "a mix has a test"


def test_every_group_has_its_place_in_the_order_of_the_tests():
    """A group that has none is evaluated first, on what the others recorded a minute before."""
    groups = yaml.safe_load(CONFIG.joinpath("alerts.yaml").read_text())["groups"]

    assert PROMTOOL["group_eval_order"] == [group["name"] for group in groups]


def test_every_threshold_stands_in_the_first_group_and_is_used():
    (first, *others) = yaml.safe_load(CONFIG.joinpath("alerts.yaml").read_text())["groups"]
    set_ = {rule["labels"]["of"] for rule in first["rules"]}
    used = set(re.findall(r'assisters:threshold{of="(\w+)"}', str(others)))

    assert used == set_


def test_what_pages_keeps_firing_for_a_while_or_waits_before_it_does():
    """A page that comes and goes wakes somebody twice; the burn rate's long window is one wait."""
    for rule in ALERTS:
        if rule["labels"]["severity"] == "page":
            steady = {"for", "keep_firing_for"} & rule.keys()
            assert steady or "share{window" in rule["expr"], rule["alert"]
