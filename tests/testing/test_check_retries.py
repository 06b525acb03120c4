"""`check_retries` finds what is wrong with a policy and nothing else. How it is used."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import replace

import httpx
import openai
import pytest
import tenacity

from assisters_otel import process, retry_after_s, retryable
from assisters_otel.testing import FakeApi, check_retries
from assisters_otel.testing.answers import Received
from assisters_otel.testing.retry_policy import jitter, rules, scenarios
from assisters_otel.testing.retry_policy.evidence import Evidence
from assisters_otel.testing.retry_policy.playing import Played
from retry_reports import HEADERS, NOT_SURVIVED, SENT, by_openai, post, rows, seen

# -- each rule is broken by somebody --------------------------------------------------------------


def test_a_call_that_never_gives_up_is_ended():
    def call(api):
        while True:
            try:
                return post(api)
            except httpx.HTTPError as error:  # noqa: PERF203 - it is what is tried
                if not retryable(error):
                    raise
                time.sleep(retry_after_s(error) or 0.2)

    began_s = time.monotonic()
    errors, _, report = rows(call, limit_s=8, leave_out=["own_timeout", "idempotency"])

    assert errors == {"outage"}
    assert "no end in time" in seen(report, "outage")
    assert time.monotonic() - began_s < 25


def test_an_async_call_that_never_gives_up_is_cancelled():
    cancelled = []

    async def call(api):
        async with httpx.AsyncClient(base_url=api.url, trust_env=False) as client:
            try:
                while not (await client.post("/embeddings", json=SENT)).is_success:  # noqa: ASYNC110 - the policy that is tried
                    await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                cancelled.append(1)
                raise

    errors, _, _ = rows(call, limit_s=4, leave_out=set(rules.NAMES) - {"outage"})

    assert (errors, cancelled) == ({"outage"}, [1])


def test_an_endless_loop_without_a_pause_fills_no_memory():
    counted = []

    def call(api):
        while httpx.post(f"{api.url}/embeddings", json=SENT, trust_env=False).is_error:
            counted.append(1)

    errors, _, _ = rows(call, limit_s=6, leave_out=set(rules.NAMES) - {"outage"})

    assert errors == {"outage"}
    assert len(counted) < 120


@pytest.mark.parametrize(
    ("statuses", "after"),
    [
        (range(400, 600), "rate_limited, overloaded, internal_error and 15 more"),
        ([403], "origin_not_allowed, dropped, silent"),
    ],
    ids=["each", "three"],
)
def test_a_failure_that_is_swallowed_is_not_surfaced(statuses, after):
    def call(api):
        try:
            return post(api)
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in statuses:
                raise
        except httpx.TransportError:
            pass

    errors, _, report = rows(call, leave_out=["own_timeout", *NOT_SURVIVED])

    assert errors == {"surfaced"}
    assert seen(report, "surfaced") == f"returned NoneType after {after}"


def test_a_stream_that_breaks_off_is_not_noticed_by_openai():
    def call(api):
        with openai.OpenAI(base_url=api.url, api_key="ask_test", timeout=4) as client:
            chunks = client.chat.completions.create(
                model="assisters-chat-v1", messages=[{"role": "user", "content": "x"}], stream=True
            )
            return list(chunks)

    left_out = ["hopeless", "idempotency", "jitter"]
    _, remarks, _ = rows(call, leave_out=left_out)
    assert remarks == {"streams"}

    def looks(api):
        chunks = call(api)
        if chunks[-1].choices[0].finish_reason is None:
            raise RuntimeError("the stream broke off")

    _, remarks, _ = rows(looks, leave_out=left_out)
    assert remarks == set()


def test_another_key_on_the_resend_is_as_good_as_none():
    def call(api):
        for attempt in range(2):
            headers = {**HEADERS, "Idempotency-Key": str(uuid.uuid4())}
            with httpx.Client(base_url=api.url, headers=headers, trust_env=False) as client:
                try:
                    return client.post("/embeddings", json=SENT).raise_for_status()
                except httpx.TransportError:
                    if attempt:
                        raise
        return None

    _, remarks, report = rows(call, leave_out=NOT_SURVIVED)

    assert remarks == {"idempotency"}
    assert "with another key after a dropped connection" in seen(report, "idempotency")


def test_a_new_key_after_a_revoked_one_is_no_hopeless_resend():
    def call(api):
        keys = iter(["ask_old", "ask_new"])
        with httpx.Client(base_url=api.url, trust_env=False) as client:
            for key in keys:
                response = client.get("/models", headers={"Authorization": f"Bearer {key}"})
                if response.status_code != httpx.codes.UNAUTHORIZED:
                    break
            response.raise_for_status()

    errors, remarks, report = rows(call, leave_out=NOT_SURVIVED)

    assert (errors, remarks) == (set(), set())
    assert seen(report, "idempotency") == "the call sends no POST"


def test_fixed_pauses_have_no_jitter_however_long_the_callers_queue_for_a_core():
    @tenacity.retry(
        retry=tenacity.retry_if_exception(retryable),
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_fixed(0.4),
    )
    def call(api):
        # A client for each attempt, which takes 40 ms of a core.
        httpx.post(f"{api.url}/embeddings", json=SENT, trust_env=False).raise_for_status()

    _, _, report = rows(call, leave_out=set(rules.NAMES) - {"jitter"})

    (row,) = [row for row in report.rows if row.rule == "jitter"]
    assert row.outcome in {"broken", "not judged"}, row.seen


def spaced(pauses_s, starts_s, *, work_s=0.04, work_at_start_s=0.04, late_s=(0.0001,) * 99):
    """Evidence of calls that were refused once, after a crowd whose pauses differ."""
    request = Received("POST", "/embeddings", "", {}, b"", 0.0)
    crowd = [
        Played(
            scenarios.Scenario(scenarios.CROWD, (), lambda *_: None),
            requests=(request, replace(request, at_s=0.5 + number / 40)),
        )
        for number in range(20)
    ]
    calls = [
        Played(
            scenarios.spaced(1),
            requests=(replace(request, at_s=start_s), replace(request, at_s=start_s + pause_s)),
            cpu_s=[0, work_at_start_s, work_at_start_s + work_s],
        )
        for pause_s, start_s in zip(pauses_s, starts_s, strict=True)
    ]
    return Evidence([*crowd, *calls], lambda _: True, {}, late_s)


EVENLY = [number / 11 for number in range(12)]
"""Twelve numbers from 0 to 1."""


@pytest.mark.parametrize(
    ("evidence", "is_kept"),
    [
        # openai on a quiet machine: pauses from 0.38 to 0.5 s, one client for all attempts.
        (spaced([0.38 + n / 8 for n in EVENLY], [0.06 + n / 20 for n in EVENLY], work_s=0.0), True),
        # Pauses of 0.5 s, a client for each attempt: on a quiet machine, on a busy one.
        (spaced([0.54 + n / 50 for n in EVENLY], [0.04 + n / 50 for n in EVENLY]), False),
        (spaced([0.54 + n / 8 for n in EVENLY], [0.04 + n / 7 for n in EVENLY]), None),
        # The same, as chance has it: the pauses vary 1.7 times as much as the starts. That was seen
        # with fixed pauses beside busy processes.
        (spaced([0.54 + n / 5 for n in EVENLY], [0.04 + n / 8.5 for n in EVENLY]), None),
        # openai's pauses where a timer is late by as much as they differ: one client, quick starts.
        (spaced([0.38 + n / 8 for n in EVENLY], [0.06 + n / 20 for n in EVENLY], work_s=0.0,
                late_s=[n / 20 for n in EVENLY]), None),
        # A timer that is late once in a hundred times is of no account.
        (spaced([0.38 + n / 8 for n in EVENLY], [0.06 + n / 20 for n in EVENLY], work_s=0.0,
                late_s=[0.0001] * 99 + [0.3]), True),
        # One client for each call. The machine wakes its thread late.
        (spaced([0.1 + n / 40 for n in EVENLY], [0.04 + n / 10 for n in EVENLY], work_s=0), None),
        # As apart as a call of twice its work: jitter or not, nobody can tell.
        (spaced([0.54 + n / 8 for n in EVENLY], [0.04 + n / 10 for n in EVENLY]), None),
        # openai beside ten busy processes: its start says little of a resend.
        (spaced([0.38 + n / 8 for n in EVENLY], [0.3 + n for n in EVENLY], work_s=0.004), None),
        # The same where a client is cheap, as with one that the app has made.
        (spaced([0.38 + n / 8 for n in EVENLY], [0.1 + n / 2 for n in EVENLY], work_s=0.008,
                work_at_start_s=0.008), None),
        # On a machine that gives a seventh of a core nothing is taken for jitter.
        (spaced([0.54 + n / 2 for n in EVENLY], [0.2 + n / 5 for n in EVENLY]), None),
        # No pause: a busy machine alone makes the crowd wait.
        (spaced([0.005 + n / 20 for n in EVENLY], [0.001 + n / 300 for n in EVENLY]), False),
        # Full jitter beside two busy processes.
        (spaced([0.1 + n / 2 for n in EVENLY], [0.07 + n / 10 for n in EVENLY]), True),
    ],
)  # fmt: skip
def test_pauses_have_jitter_if_they_differ_more_than_the_work_of_their_callers(evidence, is_kept):
    assert jitter.judge_jitter(evidence).is_kept is is_kept


def test_one_late_caller_is_no_jitter():
    evidence = spaced([*[0.5] * 11, 0.9], [0.04] * 12)

    assert jitter.judge_jitter(evidence).is_kept is False


@pytest.mark.parametrize(("again", "is_kept"), [(0, None), (6, None), (7, True)])
def test_where_half_of_the_callers_send_nothing_again_there_is_nothing_to_judge(again, is_kept):
    evidence = spaced([0.38 + n / 8 for n in EVENLY], [0.06] * 12, work_s=0.0)
    one_by_one = evidence.of(scenarios.SPACED)
    for one in one_by_one[again:]:
        one.requests = one.requests[:1]

    verdict = jitter.judge_jitter(evidence)

    assert verdict.is_kept is is_kept
    assert (verdict.seen == f"{again} of 12 callers sent it again") is (is_kept is None)


# -- how it is used -------------------------------------------------------------------------------


def test_one_after_the_other_has_the_same_rows():
    lock = threading.Lock()

    def call(api):
        assert lock.acquire(blocking=False), "two at once"
        try:
            by_openai(timeout=1, max_retries=1)(api)
        finally:
            lock.release()

    errors, remarks, report = rows(call, parallel=False)

    assert (errors, remarks) == ({"hopeless"}, {"idempotency"})
    assert report.calls < 30 + scenarios.SPACED_CALLERS


def test_no_two_calls_are_played_on_one_port(monkeypatch):
    """The system may give a port out again that the server of an ended call has given back."""
    asked, start = [], FakeApi.start

    def start_on_the_first_port(api):
        if asked and not api._port:
            with socket.socket() as free, suppress(OSError):
                free.bind(("127.0.0.1", asked[0]))
                api._port = asked[0]
        started = start(api)
        asked.append(api.port)
        return started

    monkeypatch.setattr(FakeApi, "start", start_on_the_first_port)

    errors, remarks, _ = rows(by_openai(timeout=1, max_retries=1), parallel=False)

    assert asked.count(asked[0]) > 2  # it was given out again
    assert (errors, remarks) == ({"hopeless"}, {"idempotency"})


def test_the_progress_is_shown_on_a_terminal_and_gone_at_the_end():
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    code = (
        "import httpx\n"
        "from assisters_otel.testing import check_retries\n"
        "def call(api): httpx.get(api.url + '/models', trust_env=False).raise_for_status()\n"
        f"check_retries(call, leave_out={sorted({*NOT_SURVIVED, 'hopeless', 'surfaced'})})"
    )
    told = []

    def read():
        with suppress(OSError):  # Linux's way to say that the other end is closed
            while chunk := os.read(ours, 65536):
                told.append(chunk.decode())

    reader = threading.Thread(target=read)
    reader.start()
    with subprocess.Popen([sys.executable, "-c", code], stderr=theirs) as process:
        os.close(theirs)
        assert process.wait(60) == 0
    reader.join()
    os.close(ours)

    text = "".join(told)
    assert re.search(r"\rcheck_retries: \d+ of \d+ calls have ended, \d+ s", text), text
    assert text.endswith("\r\x1b[K")


def test_what_is_left_out_is_not_judged():
    errors, _, report = rows(by_openai(timeout=4), leave_out=["hopeless", "surfaced", "jitter"])

    assert errors == set()
    assert [row.outcome for row in report.rows if row.rule == "hopeless"] == ["left out"]
    assert report.calls == 29


def test_the_report_is_what_json_has():
    _, _, report = rows(post, leave_out=set(rules.NAMES) - {"rate_limited", "hopeless"})

    told = json.loads(json.dumps(report.as_dict()))
    assert told["ok"] is False
    assert [row["rule"] for row in told["rows"]] == list(rules.NAMES)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"leave_out": ["jiter"]}, "did you mean 'jitter'"),
        ({"leave_out": "jitter"}, r"leave_out=\['jitter'\]"),
        ({"leave_out": None}, r"leave_out=\['jitter'\]"),
        ({"parallel": "no"}, "parallel=False"),
        ({"succeeded": True}, "succeeded=lambda"),
        ({"limit_s": 0}, "limit_s=60"),
        ({"limit_s": "60"}, "limit_s=60"),
        ({"limit_s": float("nan")}, "limit_s=60"),
    ],
)
def test_a_wrong_argument_is_said_at_once(options, says):
    with pytest.raises(ValueError, match=says):
        check_retries(post, **options)


def test_a_call_that_asks_a_proxy_for_the_fake_api_is_told_so(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(ValueError, match=r"no proxy is in between: NO_PROXY=127\.0\.0\.1"):
        check_retries(lambda api: httpx.get(f"{api.url}/models"))


def test_a_call_that_calls_something_else_is_refused():
    def fails(api):
        raise TypeError(f"no {api.port}, but ask_0123456789abcdef0123")

    with pytest.raises(ValueError, match="sent nothing to"):
        check_retries(lambda _: None)
    with pytest.raises(ValueError, match="TypeError: no") as caught:
        check_retries(fails)
    assert "ask_0123456789" not in str(caught.value)
    with pytest.raises(ValueError, match="is a function"):
        check_retries("post")
    with pytest.raises(ValueError, match="says no to Response where all is well"):
        check_retries(post, succeeded=lambda _: False)


def test_inside_a_running_event_loop_it_plays_as_well():
    async def call(api):
        async with httpx.AsyncClient(base_url=api.url, trust_env=False) as client:
            (await client.post("/embeddings", json=SENT)).raise_for_status()

    async def test():
        return rows(call, leave_out=set(rules.NAMES) - {"rate_limited"})

    errors, _, _ = asyncio.run(test())

    assert errors == {"rate_limited"}


def test_nothing_is_left_behind_and_nothing_is_logged(caplog):
    before = {thread.name for thread in threading.enumerate()}

    rows(post, leave_out=["own_timeout"])

    after = {thread.name for thread in threading.enumerate() if "assisters" in thread.name}
    assert after <= before
    assert process.PROCESS.current is None
    assert [record for record in caplog.records if record.name == "assisters_otel"] == []
