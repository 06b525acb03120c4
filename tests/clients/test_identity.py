"""Whose request it was: the key's fingerprint and the app's baggage, asked of every client."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import logging
from contextlib import contextmanager, suppress
from types import FunctionType, ModuleType

import assisters
import httpx
import httpx2
import openai
import pytest
from opentelemetry import baggage, context
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

import assisters_otel
from memory import Memory, watching

KEY = "ask_live_9876543210"  # 19 characters: one fewer than a key has
LONG = f"{KEY}x"
FINGERPRINT = hashlib.sha256(LONG.encode()).hexdigest()[:8]
NAME = "assisters.api_key.fingerprint"
ERRORS = "assisters.client.errors"
ATTEMPTS = "assisters.client.call.attempts"
TOKENS = "gen_ai.client.token.usage"
REMAINING = "assisters.client.ratelimit.requests.remaining"
CHAT = {"model": "m", "messages": []}


def with_key(key=LONG):
    return {"headers": {"Authorization": f"Bearer {key}"}}


@contextmanager
def carrying(**entries):
    """Set entries of the baggage, as a middleware does after authentication."""
    now = context.get_current()
    for name, value in entries.items():
        now = baggage.set_baggage(name, value, now)
    token = context.attach(now)
    try:
        yield
    finally:
        context.detach(token)


@pytest.mark.usefixtures("telemetry")
def test_a_failed_attempt_says_which_key_it_was_and_a_success_does_not(api, memory, anyone, caplog):
    api.answers("ok", "api_key_revoked")
    for _ in range(2):
        anyone.send("GET", f"{api.url}/models", **with_key())

    fine, refused = memory.attempts()
    assert NAME not in fine.attributes
    assert refused.attributes[NAME] == FINGERPRINT
    assert memory.point(ERRORS)[NAME] == FINGERPRINT
    (record,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert f", trace id {refused.context.trace_id:032x}, key {FINGERPRINT})" in record.message
    assert vars(record)[NAME] == FINGERPRINT


@pytest.mark.usefixtures("telemetry")
def test_a_failed_attempt_without_an_answer_says_it_too(api, memory, anyone):
    api.answers(fault="drop")
    with pytest.raises(anyone.broken):
        anyone.send("POST", f"{api.url}/embeddings", content=b"{}", **with_key())

    assert memory.attempts()[0].attributes[NAME] == FINGERPRINT
    assert memory.points(ERRORS)[0][NAME] == FINGERPRINT


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("key", [KEY, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2ln"])
def test_what_is_no_key_has_no_fingerprint(api, memory, anyone, key):
    api.answers("api_key_revoked")

    anyone.send("GET", f"{api.url}/models", **with_key(key))

    assert NAME not in memory.attempt().attributes
    assert NAME not in memory.point(ERRORS)


@pytest.mark.parametrize(
    ("argument", "variable", "shown"),
    [
        (False, None, False),
        (None, "false", False),
        (None, "nonsense", False),
        (None, None, True),
        (True, "false", True),
    ],
)
def test_the_fingerprint_is_switched_off_everywhere(
    api, memory, monkeypatch, caplog, argument, variable, shown
):
    if variable is not None:
        monkeypatch.setenv("ASSISTERS_OTEL_KEY_FINGERPRINT", variable)
    api.answers("api_key_revoked", times=2)
    with assisters_otel.init(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
        key_fingerprint=argument,
    ):
        refused = httpx.get(f"{api.url}/models", **with_key())
        with pytest.raises(openai.AuthenticationError) as raised:
            ask_openai(api)
        tickets = [assisters_otel.explain(one).ticket for one in (refused, raised.value)]
        told = [dict(span.attributes) for span in memory.spans()]
        points = [point for points in memory.collect().values() for point in points]
    found = (NAME in str(told), NAME in str(points), f"key {FINGERPRINT}" in caplog.text)
    assert found == (shown, shown, shown)
    assert [f", key {FINGERPRINT}, " in one for one in tickets] == [shown, shown]
    warned = [line for line in caplog.messages if "ASSISTERS_OTEL_KEY_FINGERPRINT" in line]
    assert len(warned) == (variable == "nonsense")


# -- calls and streams -----------------------------------------------------------------------------


def ask_openai(api, **options):
    with openai.OpenAI(base_url=api.url, api_key=LONG, max_retries=0) as client:
        answer = client.chat.completions.create(**CHAT, **options)
        return list(answer) if options else answer


def ask_openai_async(api, **options):
    async def main():
        async with openai.AsyncOpenAI(base_url=api.url, api_key=LONG, max_retries=0) as client:
            answer = await client.chat.completions.create(**CHAT, **options)
            return [chunk async for chunk in answer] if options else answer

    return asyncio.run(main())


def ask_assisters(api, **options):
    with assisters.Assisters(LONG, base_url=api.url, max_retries=1) as client:
        answer = client.chat.completions.create(**CHAT, **options)
        return list(answer) if options else answer


SDKS = [ask_openai, ask_openai_async, ask_assisters]


@pytest.mark.parametrize("ask", SDKS)
@pytest.mark.parametrize("options", [{}, {"stream": True}], ids=["plain", "stream"])
def test_a_call_has_the_baggage_and_a_failed_one_its_key(api, memory, ask, options):
    api.answers("ok", "insufficient_funds")
    with watching(api, memory, baggage=["tenant", "team"]), carrying(tenant="acme", other="no"):
        ask(api, **options)
        with pytest.raises(Exception, match=r"\w") as raised:
            ask(api, **options)
        ticket = assisters_otel.explain(raised.value).ticket

    fine, failed = memory.calls()
    for span in memory.spans():
        assert span.attributes["tenant"] == "acme"
        assert not {"team", "other"} & span.attributes.keys()
    assert NAME not in fine.attributes
    assert failed.attributes[NAME] == FINGERPRINT
    assert f", key {FINGERPRINT}, assisters-otel" in ticket
    points = memory.collect()
    assert {one["tenant"] for one in points[ATTEMPTS] + points[ERRORS]} == {"acme"}
    assert [one[NAME] for one in points[ERRORS]] == [FINGERPRINT]
    assert {one[NAME] for one in points[REMAINING]} == {FINGERPRINT}
    for point in points.get(TOKENS, ()):
        assert (point["tenant"], point[NAME]) == ("acme", FINGERPRINT)
    assert options or {one["gen_ai.token.type"] for one in points[TOKENS]} == {"input", "output"}
    others = points.keys() - {ATTEMPTS, ERRORS, TOKENS}
    assert not [name for name in others for one in points[name] if "tenant" in one]


def test_a_call_that_its_sdk_cannot_read_says_which_key_it_was(api, memory, caplog):
    api.answers(body="no JSON", content_type="application/json")
    with watching(api, memory), pytest.raises(ValueError, match="Expecting value"):
        ask_openai(api)

    assert memory.call().attributes[NAME] == FINGERPRINT
    assert f"key {FINGERPRINT})" in caplog.text


@pytest.mark.parametrize("ask", SDKS)
def test_a_stream_that_fails_says_which_key_and_whose_it_was(api, memory, ask):
    api.answers(in_stream="model_overloaded", times=2)
    with watching(api, memory, baggage=["tenant"]), carrying(tenant="acme"):
        with suppress(openai.OpenAIError):
            ask(api, stream=True)
        url, body = f"{api.url}/chat/completions", {**CHAT, "stream": True}
        with httpx.stream("POST", url, json=body, timeout=5, **with_key()) as response:
            response.read()

    (stream,) = [span for span in memory.spans() if span.name == "assisters.stream"]
    (call,) = [span for span in memory.calls() if span.name != "assisters.stream"]
    for span in (stream, call):
        assert (span.attributes[NAME], span.attributes["tenant"]) == (FINGERPRINT, "acme")
    assert {(one[NAME], one["tenant"]) for one in memory.points(ERRORS)} == {(FINGERPRINT, "acme")}


# -- baggage ---------------------------------------------------------------------------------------


def test_the_baggage_is_on_every_attempt_and_is_not_sent(api, memory, anyone):
    api.answers("ok", "rate_limit_exceeded")
    with watching(api, memory, baggage=("tenant", "team")), carrying(tenant="acme", team=7):
        for _ in range(2):
            anyone.send("GET", f"{api.url}/models")
    with watching(api, memory):
        anyone.send("GET", f"{api.url}/models")

    *carrying_it, bare = memory.attempts()
    for span in carrying_it:
        assert (span.attributes["tenant"], span.attributes["team"]) == ("acme", "7")
    assert "tenant" not in bare.attributes
    assert (memory.point(ERRORS)["tenant"], memory.point(ERRORS)["team"]) == ("acme", "7")
    assert not [one for one in api.requests if "baggage" in one.headers]


def test_the_baggage_is_on_the_span_of_the_app_s_own_instrumentation(api, memory):
    theirs = HTTPXClientInstrumentor()
    theirs.instrument(tracer_provider=memory.tracer_provider)
    try:
        with watching(api, memory, baggage=("tenant",)), carrying(tenant="acme"):
            httpx.get(f"{api.url}/models")
    finally:
        theirs.uninstrument()

    assert memory.attempt().instrumentation_scope.name.endswith("httpx")
    assert memory.attempt().attributes["tenant"] == "acme"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("x" * 1000, "x" * 128),
        ("sk-live-abcdefghijkl", "REDACTED"),
        (" a\nb\x00 ", "a b\N{REPLACEMENT CHARACTER}"),
        ("lone \ud800", "lone \N{REPLACEMENT CHARACTER}"),
        (7, "7"),
        ("", None),
        (" ", None),
        (None, None),
    ],
)
def test_a_value_is_cut_cleaned_and_masked(api, memory, value, shown):
    api.answers("api_key_revoked")
    with watching(api, memory, baggage=("tenant",)), carrying(tenant=value):
        httpx2.get(f"{api.url}/models")

    assert memory.attempt().attributes.get("tenant") == shown
    assert memory.point(ERRORS).get("tenant") == shown


class Raising:
    def __str__(self):
        raise RuntimeError("mine")


def test_a_value_that_cannot_be_shown_costs_the_baggage_alone(api, memory, caplog):
    api.answers("api_key_revoked")
    with (
        assisters_otel.init(
            hosts=[api.url],
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
            baggage=("tenant",),
        ),
        carrying(tenant=Raising()),
    ):
        assert httpx.get(f"{api.url}/models", **with_key()).status_code == 401

    assert memory.attempt().attributes[NAME] == FINGERPRINT
    assert "tenant" not in memory.attempt().attributes
    assert "trouble of our own" in caplog.text


def test_the_variable_names_the_entries_and_a_wrong_one_is_one_warning(
    api, memory, monkeypatch, caplog
):
    monkeypatch.setenv("ASSISTERS_OTEL_BAGGAGE", "tenant,le,service.name")
    with (
        assisters_otel.init(
            hosts=[api.url],
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
        ),
        carrying(tenant="acme", le="1"),
    ):
        httpx.get(f"{api.url}/models")

    assert memory.attempt().attributes["tenant"] == "acme"
    assert "le" not in memory.attempt().attributes
    (line,) = [line for line in caplog.messages if "ASSISTERS_OTEL_BAGGAGE" in line]
    assert line.endswith("; used are 'tenant'")


def test_zero_code_takes_both_from_arguments_and_variables(api, memory, monkeypatch):
    monkeypatch.setenv("ASSISTERS_OTEL_KEY_FINGERPRINT", "false")
    instrumentor = assisters_otel.AssistersInstrumentor()
    instrumentor.instrument(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
        baggage=["tenant"],
    )
    api.answers("api_key_revoked")
    try:
        with carrying(tenant="acme"):
            httpx.get(f"{api.url}/models", **with_key())
    finally:
        instrumentor.uninstrument()

    assert memory.attempt().attributes["tenant"] == "acme"
    assert NAME not in memory.attempt().attributes


def test_a_second_init_with_other_settings_is_warned_of(api, memory, caplog):
    with watching(api, memory, baggage=["tenant"]):
        same = {
            "hosts": [api.url],
            "tracer_provider": memory.tracer_provider,
            "meter_provider": memory.meter_provider,
            "strict": True,
        }
        assisters_otel.init(**same, baggage=("tenant",))
        assert not caplog.records
        assisters_otel.init(**same, baggage=("tenant",), key_fingerprint=True)
        assert "other arguments" in caplog.text


# -- what is held ----------------------------------------------------------------------------------


def test_two_keys_have_their_own_headroom(api, memory, anyone):
    other = f"{LONG}y"
    with watching(api, memory):
        for key, left in ((LONG, 0), (other, 5000)):
            api.answers("ok", headers={"x-ratelimit-remaining-rpm": str(left)})
            anyone.send("GET", f"{api.url}/models", **with_key(key))
        points = {one[NAME]: one["value"] for one in memory.points(REMAINING)}

    digest = hashlib.sha256(other.encode()).hexdigest()[:8]
    assert points == {FINGERPRINT: 0, digest: 5000}


def test_no_key_is_held_once_its_request_is_over(api, memory):
    keys = ["".join(("ask_", "held_", f"{n:030d}")) for n in range(5)]
    with watching(api, memory) as handle:
        for key in keys:
            api.answers("api_key_revoked")
            httpx.get(f"{api.url}/models", **with_key(key))
        gc.collect()
        recorder = handle._instrumentation.recorder
        held = [one for one in texts_in(recorder) if any(key in one for key in keys)]
        assert not held
        assert len(recorder._callers.known) == 5
        recorder.planted = keys[3]
        assert keys[3] in texts_in(recorder)


def texts_in(root):
    """Every text that is reached from an object, but through functions and modules."""
    reached, left, found = {}, [root], []
    while left:
        thing = left.pop()
        if id(thing) in reached or isinstance(thing, type | FunctionType | ModuleType):
            continue
        reached[id(thing)] = thing
        if isinstance(thing, str | bytes):
            found.append(thing if isinstance(thing, str) else thing.decode("latin-1"))
        left += gc.get_referents(thing)
    return found


def test_fingerprints_are_remembered_for_some_keys_only(api, memory):
    with watching(api, memory) as handle, httpx.Client() as client:
        for n in range(300):
            client.get(f"{api.url}/models", headers={"Authorization": f"Bearer {n}"})
        assert 0 < len(handle._instrumentation.recorder._callers.known) <= 256


def test_a_recording_takes_the_app_s_settings(api):
    from assisters_otel.testing import recorded

    api.answers("api_key_revoked")
    with its_own_settings(api) as _, recorded() as seen, carrying(tenant="acme"):
        httpx.get(f"{api.url}/models", **with_key())
    assert seen.attempts[0].attributes["tenant"] == "acme"
    assert NAME not in seen.attempts[0].attributes


@contextmanager
def its_own_settings(api):
    memory = Memory()
    with watching(api, memory, baggage=["tenant"], key_fingerprint=False) as handle:
        yield handle
    memory.shutdown()
