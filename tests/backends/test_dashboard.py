"""Every query of the dashboard has an answer where there is something to see."""

from __future__ import annotations

import pytest
from queries import DASHBOARD, filled, panels
from servers import get, within

pytestmark = pytest.mark.usefixtures("told", "trouble")
UNSET = "tokens_a_month"
"""The threshold that is a comment in the rules until a user sets it."""

ALL = [
    # A panel's hour is one of steps of five minutes: this Prometheus is a minute old.
    pytest.param(
        filled(target["expr"]).replace("[1h:5m]", "[1m:5s]"),
        id=f"{panel['title']}-{target['refId']}",
    )
    for panel in panels()
    for target in panel["targets"]
]
QUERIES = [one for one in ALL if UNSET not in one.values[0]]
OF_UNSET = [one for one in ALL if UNSET in one.values[0]]
VARIABLES = {
    one["name"]: one["query"]["query"]
    for one in DASHBOARD["templating"]["list"]
    if one["type"] == "query"
}


@pytest.mark.parametrize("query", QUERIES)
def test_a_panel_s_query_has_data(stack, query):
    found = within(45, lambda: stack.prometheus.query(query))

    assert found
    assert all(series["value"] == series["value"] for series in found), "no NaN"


@pytest.mark.parametrize("query", OF_UNSET)
def test_a_threshold_that_is_not_set_is_not_drawn(stack, query):
    assert stack.prometheus.query(query) == []


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_variable_has_values_to_choose_from(stack, variable):
    metric, label = VARIABLES[variable].removeprefix("label_values(").rstrip(")").split(", ")
    url = f"{stack.prometheus.url}/api/v1/label/{label}/values"

    assert within(15, lambda: get(url, **{"match[]": metric})["data"])
