"""The alert rules say what the catalog says, of what semconv sends."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from queries import (
    CONFIG,
    RULES,
    SCOPE,
    asked,
    beneath,
    lists_of_labels,
    matchers,
    queries_told,
    recorded,
    rules,
    series,
    wrong_names,
)

import assisters_otel
from assisters_otel import catalog

ALERTS = rules("alert")
DOCS = Path(__file__).parents[2] / "docs"
RUNBOOKS = DOCS.joinpath("alerts.md").read_text()
"""The page that a runbook_url leads to."""
ERRORS = DOCS.joinpath("errors.md").read_text()
"""The page that Jaeger's links lead to."""
PROMTOOL = {
    path.name: yaml.load(path.read_text(), yaml.CSafeLoader) for path in CONFIG.glob("*_test.yaml")
}
TESTS = [test for file in PROMTOOL.values() for test in file["tests"]]
OF_YOURS = "tokens_a_month"
"""The threshold that has no number as shipped."""
KINDS = {"error_code", "error_type", "assisters_retry_reason", "http_response_status_code"}
"""What tells one kind of failure from another."""
ONE_BY_ONE = {
    "AssistersCallerMistakes": {"error_code", "error_type"},
    "AssistersUndocumentedError": {"error_code", "error_type"},
}
"""Whose codes have advice of their own, and go to whom their label says."""


def codes_of(rule):
    """The documented codes that an alert is about; a share's are in the rule it is recorded by."""
    found = set()
    own = [rule] if matchers(rule["expr"], "error_code") else recorded(rule["expr"])
    for one in own:
        for operator, value in matchers(one["expr"], "error_code"):
            if operator in {"MatchOp.Equal", "MatchOp.Re"}:
                found |= {e.code for e in catalog.ERRORS if re.fullmatch(value, e.code)}
    return found


def scenarios():
    """What fires at each moment of each scenario."""
    return [
        set(re.findall(r'alertname="(\w+)"', str(one["exp_samples"])))
        for test in TESTS
        for one in test.get("promql_expr_test", ())
    ]


def fired(alert):
    """What fires of an alert in its tests."""
    return [
        one
        for test in TESTS
        for expected in test.get("alert_rule_test", ())
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
    (rule,) = [one for one in rules("record") if one["record"] == "assisters:undocumented:new"]
    known = [v for op, v in matchers(rule["expr"], "error_code") if op == "MatchOp.NotRe"]

    assert known
    assert all(value.split("|") == [error.code for error in catalog.ERRORS] for value in known)


def test_the_types_that_are_documented_stand_once_and_are_the_catalog_s():
    """What has a type of the API's and no code is told apart in one place (test_error_types.py)."""
    lists = [
        (rule["record"], operator, value)
        for rule in rules("record")
        for operator, value in matchers(rule["expr"], "error_type")
        if all(row.type in value for row in catalog.TYPES)
    ]

    types = "|".join(row.type for row in catalog.TYPES)
    assert lists == [("assisters:typed_errors:new5m", "MatchOp.Re", types)]


def test_a_type_of_the_api_s_is_no_exception_s_name():
    """By that an error event in a stream is told from a connection that broke off."""
    values = {
        value
        for rule in rules("record")
        if rule["record"] in {"assisters:no_answer:share", "assisters:streams_failed:new5m"}
        for _, value in matchers(rule["expr"], "error_type")
    }

    (value,) = values
    assert all(re.fullmatch(value, one.type) for one in catalog.TYPES)
    assert all(re.fullmatch(value, one) for one in ("truncated", "_OTHER", "of_tomorrow"))
    assert not any(re.fullmatch(value, one) for one in ("ReadError", "f.<locals>.Broken", "200"))


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_what_to_do_and_where_to_read_on(rule):
    name = rule["alert"]
    advice = [catalog.find(code).advice for code in codes_of(rule)]

    assert rule["labels"]["severity"] in {"page", "ticket", "none"}
    told = rule["annotations"]
    assert any(error.code in told["summary"] for error in catalog.ERRORS) or re.search(
        r"[Ee]rror code|error_code|error_type|retry_reason|\.Labels\.", told["summary"]
    )
    for one in advice:
        assert one in told["description"]
    page = "{{ range query `assisters:runbooks` }}{{ .Labels.page }}{{ end }}"
    assert told["runbook_url"] == f"{page}#{name.lower()}"
    assert f"\n### {name}\n" in RUNBOOKS, "the heading that it leads to"


def test_a_function_that_an_alert_names_is_the_one_that_its_runbook_names():
    told = "".join(rule["annotations"]["description"] for rule in ALERTS)
    named = re.findall(r"assisters_otel\.[\w.]+\(\w*\)", told)

    assert named
    for one in named:
        assert one in RUNBOOKS
        assert one.partition(".")[2].partition("(")[0] in assisters_otel.__all__


def test_the_page_of_the_runbooks_is_the_documentation_s():
    (page,) = [r["labels"]["page"] for r in rules("record") if r["record"] == "assisters:runbooks"]

    assert page.endswith("/blob/main/docs/alerts.md")


def test_a_code_that_jaeger_s_page_links_has_its_advice_there():
    ui = json.loads(CONFIG.joinpath("jaeger-ui.json").read_text())
    (link,) = [one for one in ui["linkPatterns"] if one["key"] == "error.code"]
    (page,) = [r["labels"]["page"] for r in rules("record") if r["record"] == "assisters:runbooks"]

    assert link["url"] == f"{page.replace('alerts', 'errors')}#error-#{{error.code}}"
    for error in catalog.ERRORS:
        assert f'<a id="error-{error.code}"></a>' in ERRORS
        assert error.advice in ERRORS
    assert {"error.", "assisters."} <= set(ui["topTagPrefixes"])


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not(rule):
    mine = [
        bool(expected["exp_alerts"])
        for test in TESTS
        for expected in test.get("alert_rule_test", ())
        if expected["alertname"] == rule["alert"]
    ] + [rule["alert"] in firing for firing in scenarios()]

    assert any(mine)
    assert not all(mine)


def test_what_a_service_is_stands_in_one_list():
    """Every sum of what apps send keeps all of it; else two namespaces hide each other."""
    lists = [
        (rule.get("alert") or rule["record"], names)
        for kind in ("alert", "record")
        for rule in rules(kind)
        for names in lists_of_labels(rule["expr"])
        if set(names) & set(SCOPE)
    ]
    of_processes = [one for one in lists if one[1][:2] == ["service_name", "service_instance_id"]]

    assert len(lists) > 20
    assert {where for where, _ in of_processes} == {
        "assisters:refusals:new",
        "assisters:undocumented:new",
    }, "a process is known by its id, whatever its other labels"
    for where, names in lists:
        if (where, names) not in of_processes:
            assert tuple(names[: len(SCOPE)]) == SCOPE, where


def test_a_label_of_one_s_own_is_added_by_the_command_in_the_head(tmp_path):
    """A team, a region: what nobody but the user can know."""
    text = CONFIG.joinpath("alerts.yaml").read_text()
    (command,) = re.findall(r"^#   (sed .*)$", text, re.MULTILINE)
    for name in shlex.split(command)[3:]:
        shutil.copy(CONFIG / name, tmp_path)

    subprocess.run(shlex.split(command), cwd=tmp_path, check=True)

    changed = yaml.safe_load((tmp_path / "alerts.yaml").read_text())
    lists = 0
    for rule in (rule for group in changed["groups"] for rule in group["rules"]):
        for names in lists_of_labels(rule["expr"]):
            if set(SCOPE) <= set(names):
                assert tuple(names[: len(SCOPE) + 1]) == ("team", *SCOPE)
                lists += 1
        summary = rule.get("annotations", {}).get("summary", "")
        assert summary.count("team=%q") == summary.count("$labels.team") <= 1
    assert lists > 20
    for one in yaml.safe_load((tmp_path / "alertmanager.yaml").read_text())["inhibit_rules"]:
        assert tuple(one["equal"]) == ("team", *SCOPE)


def test_the_list_is_the_same_in_words_in_summaries_and_where_alerts_silence_each_other():
    text = CONFIG.joinpath("alerts.yaml").read_text()
    alertmanager = yaml.safe_load(CONFIG.joinpath("alertmanager.yaml").read_text())

    assert f"#   {', '.join(SCOPE)}\n" in text
    for rule in ALERTS:
        for query in re.findall(r"printf `([^`]+)`", rule["annotations"]["summary"]):
            assert ",".join(f"{one}=%q" for one in SCOPE) in query
            assert " ".join(f"$labels.{one}" for one in SCOPE) in rule["annotations"]["summary"]
    for one in alertmanager["inhibit_rules"]:
        assert tuple(one["equal"]) == SCOPE


def test_no_two_alerts_silence_each_other():
    """Alertmanager would hold back both."""
    silenced = {}
    for one in yaml.safe_load(CONFIG.joinpath("alertmanager.yaml").read_text())["inhibit_rules"]:
        (source,), (target,) = one["source_matchers"], one["target_matchers"]
        for name in re.findall(r"Assisters\w+", source):
            silenced.setdefault(name, set()).update(re.findall(r"Assisters\w+", target))

    known = {rule["alert"] for rule in ALERTS}
    assert silenced.keys() <= known
    for source, targets in silenced.items():
        assert targets <= known
        assert all(source not in silenced.get(target, ()) for target in targets)


@pytest.mark.parametrize("name", ["collector", "gateway"])
def test_what_tells_services_apart_comes_through_the_collector(name):
    kept = CONFIG.joinpath(f"{name}.yaml").read_text()
    direct = CONFIG.joinpath("prometheus.yaml").read_text()

    for key in ("service.namespace", "deployment.environment", "deployment.environment.name",
                "k8s.cluster.name", "k8s.namespace.name"):  # fmt: skip
        assert key.replace(".", "_") in SCOPE
        assert f'"{key}"' in kept
        assert f"- {key}\n" in direct


def test_no_rule_takes_one_threshold_for_the_only_one():
    """Two Prometheus servers may write to one store, and scalar() of two series is NaN."""
    text = CONFIG.joinpath("alerts.yaml").read_text()

    assert text.count("scalar(") == text.count("scalar(max(assisters:threshold{of=") > 20


@pytest.mark.parametrize(
    "rule",
    [r for r in ALERTS if "assisters:threshold" in r["expr"]],
    ids=lambda rule: rule["alert"],
)
def test_a_threshold_holds_for_the_sum_of_the_kinds(rule):
    """Two kinds at 4 % each are 8 %: an alert of its own for each would leave both below 5 %."""
    kinds = {name for one in fired(rule["alert"]) for name in KINDS & one["exp_labels"].keys()}

    if len(codes_of(rule)) == 1 or rule["alert"] in ONE_BY_ONE:
        assert kinds <= ONE_BY_ONE.get(rule["alert"], {"error_code"})
    else:
        assert not kinds


@pytest.mark.parametrize(
    "rule",
    [r for r in ALERTS if "topk" in r["annotations"]["summary"]],
    ids=lambda rule: rule["alert"],
)
def test_the_kinds_that_are_told_are_those_that_are_summed(rule):
    summed = {one["record"] for one in beneath(rule["expr"])}
    told = {
        one["record"] for query in queries_told(rule) if "topk" in query for one in recorded(query)
    }

    assert told
    assert told <= summed
    assert KINDS & {name for record in told for name in series()[record]}
    mixes = [one for one in fired(rule["alert"]) if ", " in one["exp_annotations"]["summary"]]
    assert mixes, "a mix has a test"


@pytest.mark.parametrize("file", PROMTOOL.values(), ids=list(PROMTOOL))
def test_every_group_has_its_place_in_the_order_of_the_tests(file):
    """A group that has none is evaluated first, on what the others recorded a minute before."""
    assert file["group_eval_order"] == [group["name"] for group in RULES["groups"]]


def test_every_threshold_stands_in_the_first_group_and_is_used():
    (first, *others) = RULES["groups"]
    set_ = {r["labels"]["of"] for r in first["rules"] if r["record"] == "assisters:threshold"}
    used = set(re.findall(r'assisters:threshold{of="(\w+)"}', str(others)))

    assert used == set_ | {OF_YOURS}


def test_the_threshold_that_only_the_user_knows_is_set_by_taking_comment_signs_away():
    text = CONFIG.joinpath("alerts.yaml").read_text()
    (comment,) = re.findall(
        r"((?:^      # .*\n){3})      # Of all attempts, ref", text, re.MULTILINE
    )
    changed = yaml.safe_load(text.replace(comment, comment.replace("# ", "", 1)
                                          .replace("#   ", "  ")))  # fmt: skip

    before, after = (one["groups"][0]["rules"] for one in (RULES, changed))
    (added,) = [rule for rule in after if rule not in before]
    assert added["labels"] == {"of": OF_YOURS}


def test_no_rule_reads_days_of_what_processes_send():
    """Of days, what is recorded is added up; of single processes the refusals are looked at."""
    for kind in ("alert", "record"):
        for rule in rules(kind):
            ranges = re.findall(
                r"assisters_client_\w+(?:{[^}]*})?\[(\d+)([mhd])(:5m)?\]", rule["expr"]
            )
            for number, unit, subquery in ranges:
                short = unit == "m" or (unit, number) == ("h", "1")
                assert short or (subquery and rule["record"].endswith(":new"))


def test_what_pages_keeps_firing_for_a_while_or_waits_before_it_does():
    """A page that comes and goes wakes somebody twice; the burn rate's long window is one wait."""
    for rule in ALERTS:
        if rule["labels"]["severity"] == "page":
            steady = {"for", "keep_firing_for"} & rule.keys()
            assert steady or "share{window" in rule["expr"], rule["alert"]
