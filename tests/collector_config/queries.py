"""What the shipped rules and panels ask of Prometheus, taken apart by a real parser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import promql_parser as promql
import yaml

from assisters_otel import names

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = Path(__file__).parents[2] / "collector-config"
RULES = yaml.safe_load(CONFIG.joinpath("alerts.yaml").read_text())
DASHBOARD = json.loads(CONFIG.joinpath("dashboard.json").read_text())
ALL = {
    "$__rate_interval": "10m",
    "$__range": "30m",
    "$service": ".*",
    "$environment": ".*",
    "$server": ".*",
    "$endpoint": ".*",
}
"""Grafana's variables, filled in with everything."""

# The resource's keys that the collector keeps, and what Prometheus makes of a target.
RESOURCE = {
    "service_name",
    "service_namespace",
    "service_version",
    "service_instance_id",
    "deployment_environment_name",
    "job",
    "instance",
}
# Source: the collector 0.158's own telemetry and its span_metrics connector, as scraped.
OTHERS = {
    "up": {"job", "instance"},
    "ALERTS": {"alertname", "alertstate", "service_name", "error_code"},
    **{
        f"otelcol_exporter_{what}": {"instance", "job", "exporter", "data_type"}
        for what in (
            "queue_size",
            "queue_capacity",
            "send_failed_spans",
            "send_failed_metric_points",
            "enqueue_failed_spans",
            "enqueue_failed_metric_points",
        )
    },
    **{
        f"otelcol_receiver_refused_{what}": {"instance", "job", "receiver", "transport"}
        for what in ("spans", "metric_points")
    },
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
    """Every series that can be asked for, with its labels: names.py under Prometheus' naming."""
    known = dict(OTHERS)
    for metric in names.METRICS:
        labels = RESOURCE | {label(name) for name in metric.attributes}
        name = label(metric.name) + _UNITS.get(metric.unit, "")
        if metric.instrument == "counter":
            known[f"{name}_total"] = labels
        elif metric.instrument == "gauge":
            known[name] = labels
        else:
            known |= {f"{name}_sum": labels, f"{name}_count": labels}
            known[f"{name}_bucket"] = labels | {"le"}
    for rule in rules("record"):
        own = set(rule.get("labels", ()))
        own |= {name for one in _walk(promql.parse(rule["expr"])) for name in _kept(one)}
        known[rule["record"]] = known.get(rule["record"], set()) | own
    return known


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
        for query in re.findall(r"printf `([^`]+)`", told)
    ]


def recorded(expr: str) -> list[dict[str, Any]]:
    """The rules that record what a query asks for."""
    asked_for = {one.name for one in _walk(promql.parse(expr)) if hasattr(one, "matchers")}
    return [rule for rule in rules("record") if rule["record"] in asked_for]


def wrong_names(expr: str, known: dict[str, set[str]]) -> list[str]:
    """The series and labels in a query that nobody sends."""
    wrong = []
    tree = promql.parse(expr)
    for one in _walk(tree):
        if isinstance(one, promql.VectorSelector):
            if one.name not in known:
                wrong.append(one.name)
                continue
            wrong += [m.name for m in one.matchers.matchers if m.name not in known[one.name]]
        beneath = {
            name
            for inner in _walk(one)
            if isinstance(inner, promql.VectorSelector)
            for name in known.get(inner.name, ())
        }
        wrong += [name for name in _grouped(one) if name not in beneath]
    return wrong


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

    return list(bare(promql.parse(expr)))


def matchers(expr: str, name: str) -> list[tuple[str, str]]:
    """The operators and values that a query compares one label with."""
    found = []
    for one in _walk(promql.parse(expr)):
        if isinstance(one, promql.VectorSelector):
            found += [(str(m.op), m.value) for m in one.matchers.matchers if m.name == name]
    return found


def selects(expr: str, series: str, labels: dict[str, str]) -> bool:
    """Whether a query looks at a point of *series* that has these labels and no other."""
    return any(
        one.name == series
        and all(_MATCHES[str(m.op)](m.value, labels.get(m.name, "")) for m in one.matchers.matchers)
        for one in _walk(promql.parse(expr))
        if isinstance(one, promql.VectorSelector)
    )


def _kept(one: Any) -> list[str]:
    """The labels that an outer aggregation of a recorded series keeps."""
    return (
        list(one.modifier.labels) if isinstance(one, promql.AggregateExpr) and one.modifier else []
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
