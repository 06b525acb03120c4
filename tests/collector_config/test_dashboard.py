"""The dashboard answers its questions in order, and asks nothing that is not sent."""

from __future__ import annotations

import re

import pytest
import yaml
from queries import (
    CONFIG,
    DASHBOARD,
    SCOPE,
    filled,
    lists_of_labels,
    panels,
    raw,
    selects,
)

from assisters_otel import catalog

QUESTIONS = [
    "Is it us or them?",
    "Which code?",
    "Which endpoint and model?",
    "How much headroom is left?",
    "Whose key, whose request, how many tokens?",
    "What do retries cost?",
    "From a point to its trace",
    "Can this be trusted?",
]
VARIABLES = DASHBOARD["templating"]["list"]
SIDES = next(p for p in panels() if p["title"] == "Failed attempts, by whose side it is")


def test_the_questions_stand_in_order():
    rows = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]

    assert [row["title"] for row in sorted(rows, key=lambda row: row["gridPos"]["y"])] == QUESTIONS


def test_no_two_panels_share_an_id_or_a_place():
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]

    assert len(cells) == len(set(cells))
    assert len(ids) == len(set(ids))
    assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_in_which_unit(panel):
    assert len(panel["description"]) > 40
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert all(target["legendFormat"] or target.get("format") for target in panel["targets"])


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_shows_no_single_process_s_series(panel):
    assert [name for one in panel["targets"] for name in raw(filled(one["expr"]))] == []


def test_every_code_is_on_exactly_one_side():
    patterns = {
        target["legendFormat"]: re.search(r'error_code(=~|=)"([^"]+)"', target["expr"])
        for target in SIDES["targets"]
    }

    for error in catalog.ERRORS:
        sides = [
            side for side, found in patterns.items() if found and re.fullmatch(found[2], error.code)
        ]
        assert len(sides) == 1, (error.code, sides)


def sides_of(code, error_type, status):
    """The sides on which an error is."""
    point = {
        "error_code": code,
        "error_type": error_type,
        "http_response_status_code": status,
    }
    return [
        target["legendFormat"]
        for target in SIDES["targets"]
        if selects(filled(target["expr"]), "assisters_client_errors_total", point)
    ]


@pytest.mark.sampled
@pytest.mark.parametrize("code", ["", "_OTHER", "of_tomorrow", *(e.code for e in catalog.ERRORS)])
@pytest.mark.parametrize("status", ["", "200", "400", "401", "404", "429", "500", "503"])
def test_whatever_failed_is_on_exactly_one_side(code, status):
    """A label that is empty is one that is absent."""
    for error_type in (
        "",
        "_OTHER",
        "truncated",
        "ReadError",
        *(row.type for row in catalog.TYPES),
    ):
        assert len(sides_of(code, error_type, status)) == 1, error_type


@pytest.mark.parametrize("error", catalog.ERRORS, ids=lambda error: error.code)
@pytest.mark.parametrize("status", ["200", None], ids=["in a stream", "refused"])
def test_a_type_without_a_code_is_on_the_side_of_its_codes(error, status):
    status = status or str(error.status)

    assert sides_of("", error.type, status) == sides_of(error.code, error.type, status)


@pytest.mark.parametrize(
    ("title", "threshold"),
    [
        ("Streams that fail after their 200", "streams_failed_share"),
        ("Calls that fail although retried", "failed_though_retried_share"),
    ],
)
def test_a_panel_of_kinds_shows_their_sum_and_where_its_alert_begins(title, threshold):
    """The alert sums the kinds: none of them needs to be high."""
    (panel,) = [one for one in panels() if one["title"] == title]
    kinds, total, alert = panel["targets"]
    lines = {
        one["matcher"]["options"]: {p["id"]: p["value"] for p in one["properties"]}
        for one in panel["fieldConfig"]["overrides"]
    }

    assert "by (error_code, error_type)" in kinds["expr"]
    assert panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    assert panel["fieldConfig"]["defaults"]["unit"] == "percentunit"
    assert "error_type" not in total["expr"]
    assert total["legendFormat"].startswith("all kinds")
    assert alert["expr"] == f'max(assisters:threshold{{of="{threshold}"}})'
    for line in ("/^all kinds/", alert["legendFormat"]):
        assert lines[line]["custom.stacking"]["mode"] == "none", "it is no part of the stack"


def test_attempts_without_an_answer_are_one_share_whatever_the_exception():
    (nobody,) = [one for one in SIDES["targets"] if one["legendFormat"].startswith("nobody")]

    assert nobody["expr"].startswith("sum(rate(assisters_client_errors_total{")


def test_any_grafana_can_import_it():
    """Its data sources are chosen, not named: another Grafana's have other uids."""
    used = set(re.findall(r"'uid': '([^']+)'", str(DASHBOARD))) - {DASHBOARD["uid"]}
    chosen = {one["name"]: one["query"] for one in VARIABLES if one["type"] == "datasource"}

    assert used == {"-- Grafana --", "${prometheus}"}
    assert chosen == {"prometheus": "prometheus", "jaeger": "jaeger"}
    assert "${jaeger}" in str(DASHBOARD)


def test_the_data_sources_that_are_provisioned_are_there_to_be_chosen():
    config = yaml.safe_load(CONFIG.joinpath("grafana-datasources.yaml").read_text())
    provisioned = {source["uid"] for source in config["datasources"]}

    assert {source["type"] for source in config["datasources"]} == {"prometheus", "jaeger"}
    (way,) = config["datasources"][0]["jsonData"]["exemplarTraceIdDestinations"]
    assert way["datasourceUid"] in provisioned


@pytest.mark.parametrize(
    "variable", ["service", "namespace", "environment", "older", "server", "endpoint"]
)
def test_a_variable_is_asked_by_the_panels(variable):
    assert variable in {one["name"] for one in VARIABLES}
    assert f'=~"${variable}"' in str(DASHBOARD["panels"])


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_that_tells_services_apart_does_so_by_all_that_a_service_is(panel):
    for target in panel["targets"]:
        for names in lists_of_labels(filled(target["expr"])):
            if set(names) & set(SCOPE):
                assert tuple(names[: len(SCOPE)]) == SCOPE


def test_points_lead_to_traces():
    assert sum(bool(t.get("exemplar")) for panel in panels() for t in panel["targets"]) >= 2
