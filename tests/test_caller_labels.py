"""Whose request it was, on metrics: the labels are bounded, and many do not hide the others."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry.context import Context

from assisters_otel import catalog
from assisters_otel.api.error_body import Envelope
from assisters_otel.api.identity import NOBODY, Identity
from assisters_otel.api.request import ApiRequest
from assisters_otel.outcomes import AttemptOutcome, CallOutcome
from assisters_otel.semconv import metrics as metric_names
from assisters_otel.sinks.caller_labels import (
    FREE_AFTER_S,
    MAX_BAGGAGE_VALUES,
    MAX_KEYS,
    MAX_SETS,
    LabelSets,
    RecentValues,
)
from assisters_otel.sinks.metrics import AttemptMetrics
from assisters_otel.sinks.rate_limits import FRESH_S

REQUEST = ApiRequest("POST", "/v1/embeddings", "/v1/embeddings", "api.assisters.dev", 443)
ERRORS = metric_names.ERRORS.name
KEY = "assisters.api_key.fingerprint"
LIMIT = "assisters.client.ratelimit.requests.limit"
REMAINING = "assisters.client.ratelimit.requests.remaining"


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def metrics(memory, clock):
    return AttemptMetrics(memory.meter_provider, clock, lambda: None)


def failed(code="api_key_revoked", key=None, tenant=None, template="/v1/embeddings"):
    row = catalog.find(code)
    entries = () if tenant is None else (("tenant", tenant),)
    return AttemptOutcome.of(
        REQUEST._replace(template=template),
        0.1,
        status=row.status,
        envelope=Envelope(row.type, code),
        caller=Identity(key, entries),
    )


def call(code=None, tenant=None, model="m", key=None):
    caller = Identity(key, () if tenant is None else (("tenant", tenant),))
    last = AttemptOutcome.of(REQUEST, 0.1, status=200, caller=caller)
    outcome = "ok"
    if code is not None:
        last, outcome = failed(code), "failed"
    return CallOutcome(REQUEST, "chat", model, outcome, 0.1, 0, 0.0, last, None, caller=caller)


def test_an_error_has_its_key_and_its_tenant(memory, metrics):
    metrics.record_attempt(failed(key="1a2b3c4d", tenant="acme"))

    point = memory.point(ERRORS)
    assert (point[KEY], point["tenant"]) == ("1a2b3c4d", "acme")
    (duration,) = memory.points(metric_names.REQUEST_DURATION.name)
    assert not {KEY, "tenant"} & duration.keys()


def test_a_call_has_its_tenant_and_not_its_key(memory, metrics):
    metrics.calls.record_call(call(tenant="acme", key="1a2b3c4d"), Context())

    attempts = memory.point(metric_names.CALL_ATTEMPTS.name)
    assert attempts["tenant"] == "acme"
    assert KEY not in attempts
    assert "tenant" not in memory.point(metric_names.OPERATION_DURATION.name)


def test_twenty_keys_are_labels_and_the_next_is_other(memory, metrics, caplog):
    for n in range(MAX_KEYS + 10):
        metrics.record_attempt(failed(key=f"{n:08x}"))
    metrics.record_attempt(failed(key=f"{3:08x}"))

    points = {point[KEY]: point["value"] for point in memory.points(ERRORS)}
    assert len(points) == MAX_KEYS + 1 == 21
    assert (points["_OTHER"], points[f"{3:08x}"]) == (10, 2)
    (line,) = caplog.messages
    assert line.startswith(f"{KEY} '00000014' is on metrics as _OTHER, ")


def test_fifty_values_of_an_entry_are_labels_whatever_another_entry_has(memory, metrics):
    for n in range(MAX_BAGGAGE_VALUES + 10):
        entries = (("tenant", f"t{n}"), ("team", f"{n % 2}"))
        outcome = failed()._replace(caller=Identity(None, entries))
        metrics.record_attempt(outcome)

    tenants = {point["tenant"] for point in memory.points(ERRORS)}
    assert len(tenants) == MAX_BAGGAGE_VALUES + 1 == 51
    assert {point["team"] for point in memory.points(ERRORS)} == {"0", "1"}


def test_a_place_is_free_an_hour_after_its_last_use(clock):
    values = RecentValues("tenant", 2, clock)
    assert [values.bounded(one) for one in "abc"] == ["a", "b", "_OTHER"]

    clock.now += FREE_AFTER_S - 1
    assert values.bounded("a") == "a"
    assert values.bounded("c") == "_OTHER"
    clock.now += 1
    assert values.bounded("c") == "c"  # b's
    assert values.bounded("b") == "_OTHER"
    clock.now += FREE_AFTER_S - 2
    assert values.bounded("b") == "_OTHER"
    clock.now += 1
    assert values.bounded("b") == "b"  # a's
    assert values.bounded("a") == "_OTHER"
    assert values.bounded("c") == "c"


def test_values_of_many_threads_are_no_more_than_the_bound(clock):
    values = RecentValues("tenant", 50, clock)
    with ThreadPoolExecutor(8) as pool:
        shown = set(pool.map(values.bounded, [f"t{n % 400}" for n in range(4000)]))

    assert len(shown - {"_OTHER"}) <= 50


def test_a_thousand_tenants_do_not_hide_a_first_revoked_key(memory, metrics, clock):
    codes = [row.code for row in catalog.ERRORS if row.code != "api_key_revoked"]
    templates = ["/v1/embeddings", "/v1/chat/completions", "/v1/moderate", "/v1/rerank"]
    for n in range(1000):
        clock.now += FREE_AFTER_S  # each one's label is free for the next one
        for code, template in itertools.product(codes[n % 3 :: 3], templates):
            metrics.record_attempt(failed(code, f"{n % 7:08x}", f"tenant-{n}", template))

    metrics.record_attempt(failed("api_key_revoked", "deadbeef", "tenant-last"))

    points = memory.points(ERRORS)
    (revoked,) = [point for point in points if point["error.code"] == "api_key_revoked"]
    assert revoked["value"] == 1
    assert revoked[KEY] == "deadbeef"
    assert revoked["http.response.status_code"] == 401
    assert revoked["error.type"] == "authentication_error"
    assert len(points) <= MAX_SETS
    assert "otel.metric.overflow" not in {name for point in points for name in point}
    sent = sum(len(codes[n % 3 :: 3]) * len(templates) for n in range(1000))
    assert sum(point["value"] for point in points) == sent + 1


def test_calls_of_a_thousand_tenants_and_many_models_do_not_hide_a_first_failure(memory, metrics):
    for tenant, model in itertools.product(range(50), range(50)):
        metrics.calls.record_call(call(tenant=f"t{tenant}", model=f"m-{model}"), Context())
    metrics.calls.record_call(call("api_key_revoked", "t1", "m-7"), Context())

    points = memory.points(metric_names.CALL_ATTEMPTS.name)
    (revoked,) = [point for point in points if point.get("error.code") == "api_key_revoked"]
    assert revoked["gen_ai.request.model"] == "m-7"
    assert len(points) <= MAX_SETS
    assert sum(point["count"] for point in points) == 2501


def test_the_baggage_goes_first_then_the_key_then_the_model(caplog):
    sets, seen = LabelSets("x"), []
    for n in range(2000):
        label = str(n)
        groups = ((("tenant", label),), (("key", label),), (("model", label),))
        seen.append(dict(sets.bounded("fixed", *groups)))

    def others(of):
        return {name for name, value in of.items() if value == "_OTHER"}

    lost = [others(one) for one in seen]
    assert [set(), {"tenant"}, {"tenant", "key"}, {"tenant", "key", "model"}] == [
        key for key, _ in itertools.groupby(lost)
    ]
    assert len({tuple(one.items()) for one in seen}) <= MAX_SETS
    assert dict(sets.bounded("fixed", (("tenant", "3"),), (("key", "3"),), (("model", "3"),))) == {
        "tenant": "3",
        "key": "3",
        "model": "3",
    }
    assert len(caplog.records) == 1


def test_what_has_no_caller_loses_nothing_and_warns_of_nothing(caplog):
    sets = LabelSets("x")

    assert [sets.bounded(n, (), ()) for n in range(3000)] == [()] * 3000
    assert not caplog.records


# -- the gauges ------------------------------------------------------------------------------------


def answered(caller, left, limit=60, request=REQUEST):
    headers = {
        b"x-ratelimit-limit-rpm": str(limit).encode(),
        b"x-ratelimit-remaining-rpm": str(left).encode(),
    }
    return AttemptOutcome.of(request, 0.1, status=200, headers=headers, caller=caller)


def test_one_key_s_headroom_does_not_hide_another_s(memory, metrics):
    metrics.record_attempt(answered(Identity("aaaaaaaa", (), 1), 0))
    metrics.record_attempt(answered(Identity("bbbbbbbb", (), 2), 5000))
    metrics.record_attempt(answered(Identity("bbbbbbbb", (), 2), 4999))

    points = {point[KEY]: point["value"] for point in memory.points(REMAINING)}
    assert points == {"aaaaaaaa": 0, "bbbbbbbb": 4999}


def test_without_a_fingerprint_it_is_the_least_remaining_with_its_own_limit(memory, metrics, clock):
    metrics.record_attempt(answered(Identity(credential=1), 3, 60))
    metrics.record_attempt(answered(Identity(credential=2), 500, 1000))
    metrics.record_attempt(answered(NOBODY, 700, 2000))

    assert memory.point(REMAINING)["value"] == 3
    assert memory.point(LIMIT)["value"] == 60
    assert KEY not in memory.point(LIMIT)
    metrics.record_attempt(answered(Identity(credential=1), 600, 600))
    assert memory.point(REMAINING)["value"] == 500
    clock.now += FRESH_S + 1
    metrics.record_attempt(answered(Identity(credential=1), 600, 600))
    assert memory.point(REMAINING)["value"] == 600


def test_keys_beyond_the_bound_share_the_least_remaining(memory, metrics):
    for n in range(MAX_KEYS + 5):
        metrics.record_attempt(answered(Identity(f"{n:08x}", (), n), 100 - n))

    points = {point[KEY]: point["value"] for point in memory.points(REMAINING)}
    assert len(points) == MAX_KEYS + 1
    assert points["_OTHER"] == 100 - (MAX_KEYS + 4)


def test_a_flood_of_tokens_does_not_hide_a_key_s_headroom(memory, metrics):
    metrics.record_attempt(answered(Identity("aaaaaaaa", (), -1), 0))
    for n in range(5000):
        metrics.record_attempt(answered(Identity(credential=n), 50))

    points = {point.get(KEY): point["value"] for point in memory.points(REMAINING)}
    assert points == {"aaaaaaaa": 0, None: 50}
