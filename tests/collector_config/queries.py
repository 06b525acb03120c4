"""What the shipped rules and panels ask of Prometheus, taken apart by a real parser."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import promql_parser as promql
import yaml

from assisters_otel.semconv import metrics as metric_names

if TYPE_CHECKING:
    from collections.abc import Iterator

_parse = functools.cache(promql.parse)  # 1 ms, and many tests ask for the same query

CONFIG = Path(__file__).parents[2] / "collector-config"
SCOPE = (
    "cluster",
    "k8s_cluster_name",
    "k8s_namespace_name",
    "deployment_environment",
    "deployment_environment_name",
    "service_namespace",
    "service_name",
)
"""What a service is: the labels that every sum of apps' series begins with, in this order."""
RULES = yaml.load(CONFIG.joinpath("alerts.yaml").read_text(), yaml.CSafeLoader)
DASHBOARD = json.loads(CONFIG.joinpath("dashboard.json").read_text())
ALL = {
    "$__rate_interval": "10m",
    "$__range": "30m",
    "$service": ".*",
    "$namespace": ".*",
    "$environment": ".*",
    "$older": ".*",
    "$server": ".*",
    "$endpoint": ".*",
    "$who": "tenant",
}
"""Grafana's variables, filled in with everything."""

BAGGAGE = {"tenant"}
"""What an app names by ``init(baggage=…)``, as the dashboard's variable has it."""
OF_BAGGAGE = (
    "assisters.client.errors",
    "assisters.client.call.attempts",
    "gen_ai.client.token.usage",
)

# The resource's keys that the collector keeps, and what Prometheus makes of a target.
RESOURCE = {*SCOPE, "service_version", "service_instance_id", "job", "instance"}
# Source: the collector 0.158's own telemetry and its span_metrics connector, as scraped.
OTHERS = {
    "up": {"job", "instance"},
    "scrape_samples_scraped": {"job", "instance"},
    "ALERTS": {"alertname", "alertstate", "error_code", *SCOPE},
    # Source: Prometheus 3.16 and Alertmanager 0.28, as they show themselves.
    **{
        f"prometheus_{what}": {"job", "instance"}
        for what in (
            "rule_evaluation_failures_total",
            "rule_group_iterations_missed_total",
            "config_last_reload_successful",
            "notifications_dropped_total",
            "notifications_alertmanagers_discovered",
            "target_scrapes_exceeded_sample_limit_total",
            "target_scrapes_exceeded_body_size_limit_total",
        )
    },
    "alertmanager_notifications_failed_total": {"job", "instance", "integration"},
    **{
        f"otelcol_exporter_{what}": {"instance", "job", "exporter", "data_type"}
        for what in (
            "queue_size",
            "queue_capacity",
            "send_failed_spans",
            "send_failed_metric_points",
            "enqueue_failed_spans",
            "enqueue_failed_metric_points",
            "sent_spans",
            "sent_metric_points",
        )
    },
    "otelcol_process_uptime": {"instance", "job"},
    **{
        f"otelcol_receiver_refused_{what}": {"instance", "job", "receiver", "transport"}
        for what in ("spans", "metric_points")
    },
    "otelcol_receiver_accepted_spans": {"instance", "job", "receiver", "transport"},
    "otelcol_receiver_accepted_metric_points": {"instance", "job", "receiver", "transport"},
    "traces_span_metrics_calls_total": RESOURCE | {"span_name", "error_code", "url_template"},
}
_UNITS = {"s": "_seconds"}
_MATCHES = {
    "MatchOp.Equal": lambda want, got: want == got,
    "MatchOp.NotEqual": lambda want, got: want != got,
    "MatchOp.Re": lambda want, got: re.fullmatch(want, got) is not None,
    "MatchOp.NotRe": lambda want, got: re.fullmatch(want, got) is None,
}


def series() -> dict[str, set[str]]:
    """Every series that can be asked for, with its labels: semconv under Prometheus' naming."""
    known = dict(OTHERS)
    for metric in metric_names.METRICS:
        labels = RESOURCE | {label(name) for name in metric.attributes}
        if metric.name in OF_BAGGAGE:
            labels |= BAGGAGE
        name = label(metric.name) + _UNITS.get(metric.unit, "")
        if metric.instrument == "counter":
            known[f"{name}_total"] = labels
        elif metric.instrument == "gauge":
            known[name] = labels
        else:
            known |= {f"{name}_sum": labels, f"{name}_count": labels}
            known[f"{name}_bucket"] = labels | {"le"}
            known[name] = labels  # an exponential one, as Prometheus has it
    for rule in rules("record"):
        own = set(rule.get("labels", ())) | labels_of(_parse(rule["expr"]), known)
        known[rule["record"]] = known.get(rule["record"], set()) | own
    return known


def labels_of(tree: Any, known: dict[str, set[str]]) -> set[str]:
    """Return the labels that the series of a query may have."""
    if isinstance(tree, promql.VectorSelector):
        own = set() if tree.name else {"__name__"}
        return own.union(*(known[name] for name in _names(tree, known)))
    inner = [labels_of(one, known) for one in _inner(tree)]
    labels = set().union(*inner)
    if isinstance(tree, promql.AggregateExpr):
        listed = set(tree.modifier.labels) if tree.modifier else set()
        excluded = tree.modifier and "Without" in str(tree.modifier.type)
        labels = labels - listed if excluded else listed
    elif isinstance(tree, promql.BinaryExpr) and str(tree.op) != "or":
        left, right = inner
        labels = left or right  # a number or a scalar has none
    elif isinstance(tree, promql.Call):
        name = tree.func.name
        if name == "label_replace":
            labels |= {tree.args[1].val}
        elif name == "scalar":
            labels = set()
        elif name == "histogram_quantile":
            labels -= {"le"}
    return labels


def _names(selector: Any, known: dict[str, set[str]]) -> list[str]:
    """Return the known series that a selector takes: of its name, or of those that match one."""
    if selector.name:
        return [selector.name] if selector.name in known else []
    asked_for = [one for one in selector.matchers.matchers if one.name == "__name__"]
    return [
        name
        for name in known
        if asked_for and all(_MATCHES[str(one.op)](one.value, name) for one in asked_for)
    ]


def label(attribute: str) -> str:
    """An attribute's name as a label."""
    return attribute.replace(".", "_")


def rules(kind: str) -> list[dict[str, Any]]:
    """The rules that ``alert``, or that ``record``."""
    return [rule for group in RULES["groups"] for rule in group["rules"] if kind in rule]


class Query(NamedTuple):
    """One query, and where it stands."""

    of: str
    expr: str


def panels() -> list[dict[str, Any]]:
    """The panels that ask something."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def filled(expr: str) -> str:
    """A panel's query, its variables filled in with everything."""
    return re.sub(r"\$\w+", lambda found: ALL[found[0]], expr)


def asked() -> list[Query]:
    """Every query of rules and dashboard."""
    return [
        *(Query(rule.get("alert") or rule["record"], rule["expr"])
          for kind in ("alert", "record") for rule in rules(kind)),
        *(Query(f"{rule['alert']}'s words", query)
          for rule in rules("alert") for query in queries_told(rule)),
        *(Query(panel["title"], filled(target["expr"]))
          for panel in panels() for target in panel["targets"]),
        *(Query(note["name"], filled(note["expr"]))
          for note in DASHBOARD["annotations"]["list"] if "expr" in note),
    ]  # fmt: skip


def queries_told(rule: dict[str, Any]) -> list[str]:
    """The queries that an alert's annotations ask, about a service that is called "x"."""
    return [
        query.replace("%q", '"x"')
        for told in rule["annotations"].values()
        for query in re.findall(r"(?:printf|query) `([^`]+)`", told)
    ]


def recorded(expr: str) -> list[dict[str, Any]]:
    """The rules that record what a query asks for."""
    asked_for = {one.name for one in _walk(_parse(expr)) if hasattr(one, "matchers")}
    return [rule for rule in rules("record") if rule["record"] in asked_for]


def beneath(expr: str) -> list[dict[str, Any]]:
    """The rules that record what a query asks for, and what those ask for in turn."""
    found: dict[int, dict[str, Any]] = {}
    left = recorded(expr)
    while left:
        rule = left.pop()
        if id(rule) not in found:
            found[id(rule)] = rule
            left += recorded(rule["expr"])
    return list(found.values())


def wrong_names(expr: str, known: dict[str, set[str]]) -> list[str]:
    """The series and labels in a query that nobody sends."""
    wrong = []
    for one in _walk(_parse(expr)):
        if isinstance(one, promql.VectorSelector):
            if not _names(one, known):
                wrong.append(one.name or str(one))
                continue
            may = labels_of(one, known)
            wrong += [m.name for m in one.matchers.matchers if m.name not in may | {"__name__"}]
        under = set().union(*(labels_of(inner, known) for inner in _inner(one)))
        wrong += [name for name in _grouped(one) if name not in under]
    return wrong


def lists_of_labels(expr: str) -> list[list[str]]:
    """The labels that a query sums or matches by, list by list; not those that it leaves out."""
    found = []
    for one in _walk(_parse(expr)):
        modifier = getattr(one, "modifier", None)
        listed = modifier
        if modifier and isinstance(one, promql.BinaryExpr):
            listed = modifier.matching
        if listed and "Without" not in str(listed.type) and "Exclude" not in str(listed.type):
            found.append(list(listed.labels))
    return found


def raw(expr: str) -> list[str]:
    """The counters and gauges of apps that a query shows without summing them."""

    def bare(one: Any) -> Iterator[str]:
        if isinstance(one, promql.AggregateExpr):
            return
        if isinstance(one, promql.VectorSelector) and one.name.startswith(
            ("assisters_", "traces_")
        ):
            yield one.name
        for inner in _inner(one):
            yield from bare(inner)

    return list(bare(_parse(expr)))


def matchers(expr: str, name: str) -> list[tuple[str, str]]:
    """The operators and values that a query compares one label with."""
    found = []
    for one in _walk(_parse(expr)):
        if isinstance(one, promql.VectorSelector):
            found += [(str(m.op), m.value) for m in one.matchers.matchers if m.name == name]
    return found


def selects(expr: str, series: str, labels: dict[str, str]) -> bool:
    """Whether a query looks at a point of *series* that has these labels and no other."""
    return any(
        one.name == series
        and all(_MATCHES[str(m.op)](m.value, labels.get(m.name, "")) for m in one.matchers.matchers)
        for one in _walk(_parse(expr))
        if isinstance(one, promql.VectorSelector)
    )


def _grouped(one: Any) -> list[str]:
    if isinstance(one, promql.AggregateExpr) and one.modifier:
        return list(one.modifier.labels)
    if isinstance(one, promql.BinaryExpr) and one.modifier and one.modifier.matching:
        return list(one.modifier.matching.labels)
    return []


def _walk(one: Any) -> Iterator[Any]:
    yield one
    for inner in _inner(one):
        yield from _walk(inner)


def _inner(one: Any) -> list[Any]:
    if isinstance(one, promql.BinaryExpr):
        return [one.lhs, one.rhs]
    if isinstance(one, promql.Call):
        return list(one.args)
    if isinstance(one, promql.MatrixSelector):
        return [one.vector_selector]
    if isinstance(
        one, promql.AggregateExpr | promql.ParenExpr | promql.SubqueryExpr | promql.UnaryExpr
    ):
        return [one.expr]
    return []
