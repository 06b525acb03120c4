"""The same scenario bare, with OpenTelemetry's own instrumentations, and with us; a process each.

Whatever an app could see is compared: bytes, exceptions and where they were raised, the state of
responses, the order of hooks and log lines, warnings, what the server was sent, and how many
connections that took.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings

import sizes
from neutral.scenario import (
    BODIES,
    CLOSES,
    CONTENTS,
    FAULTS,
    FORMS,
    METHODS,
    NO_ANSWERS,
    PLAIN,
    READS,
    REDIRECTS,
    SCENARIOS,
    SDKS,
    Scenario,
    of_each_value,
)

EACH_VALUE = list(of_each_value())
MODES = ("bare", "otel", "ours")


class Worker:
    """A process in which scenarios are played."""

    def __init__(self, mode):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("worker.py"), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**clean, "PYTHONIOENCODING": "utf-8", "COVERAGE_PROCESS_START": ""},
        )

    def begin(self, scenario):
        self._process.stdin.write(f"{asdict(scenario)!r}\n")
        self._process.stdin.flush()

    def end(self):
        line = self._process.stdout.readline()
        assert line, "the worker has died"
        return line

    def stop(self):
        self._process.stdin.close()
        assert self._process.wait(30) == 0
        self._process.stdout.close()


@pytest.fixture(scope="module")
def workers():
    workers = {mode: Worker(mode) for mode in MODES}
    yield workers
    for worker in workers.values():
        worker.stop()


def differences(workers, scenario):
    """Where an app sees with us what it sees neither bare nor with OpenTelemetry alone."""
    for worker in workers.values():
        worker.begin(scenario)
    lines = [workers[mode].end() for mode in MODES]
    bare, otel, ours = (ast.literal_eval(line) for line in lines)
    for seen in (bare, otel, ours):
        assert seen[0] != "the worker failed", "".join(seen[1:])
    found = []
    for what, one, other, mine in zip(
        ("app", "warnings", "server"), bare, otel, ours, strict=False
    ):
        if mine not in (one, other):
            found.append((what, one, mine))
    if ours[3] > max(bare[3], otel[3]):
        found.append(("connections", bare[3], ours[3]))
    return found


def check(workers, scenario):
    # Where two things may happen at once, both have to be seen before they count.
    for _ in range(4):
        found = differences(workers, scenario)
        if not found:
            return
    pytest.fail("\n".join(_shown(*one) for one in found))


def _shown(what, bare, ours):
    """The first part that differs; the whole would be pages."""
    if isinstance(bare, list):
        pairs = zip_longest(bare, ours)
        bare, ours = next((one, mine) for one, mine in pairs if one != mine)
    return f"{what}\n  bare: {bare}\n  ours: {ours}"


# Its second request has a limit for the whole of it, which rings while a failed body is waited for.
STALLED = Scenario(
    client="aiohttp", method="GET", body="none", follow=False, stream=False, read="all",
    close="context", cancel_s=None, apart=False,
    answers=[
        {"fault": "garbage"},
        {"code": "rate_limit_exceeded", "retry_after": "0", "fault": "stall"},
    ],
)  # fmt: skip


@pytest.mark.parametrize("scenario", EACH_VALUE, ids=lambda scenario: scenario.client)
def test_no_app_can_tell_whatever_it_does(workers, scenario):
    check(workers, scenario)


def test_whatever_an_app_does_is_played_at_the_smallest_size():
    plain = [one for one in EACH_VALUE if one.client in PLAIN]
    answers = [one.answers[0] for one in EACH_VALUE]

    assert {one.client for one in EACH_VALUE} == {*PLAIN, *SDKS}
    assert {one.method for one in plain} == set(METHODS)
    assert {one.body for one in plain} == set(BODIES)
    assert {one.read for one in plain if one.stream} == set(READS)
    assert {one.close for one in plain if one.client not in ("requests", "aiohttp")} == set(CLOSES)
    assert {one.stream for one in plain} == {one.follow for one in plain} == {True, False}
    assert {one.cancel_s is None for one in EACH_VALUE} == {True, False}
    for part in (*CONTENTS, *FORMS, *FAULTS, *NO_ANSWERS, *REDIRECTS):
        assert any(part.items() <= answer.items() for answer in answers), part


@example(scenario=STALLED)
@given(scenario=SCENARIOS)
@settings(
    max_examples=sizes.sized(200),
    deadline=None,
    derandomize=sizes.SIZE == 1,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
def test_no_app_can_tell_by_anything_at_random(workers, scenario):
    check(workers, scenario)


@pytest.mark.parametrize("client", [*PLAIN, *SDKS])
@pytest.mark.parametrize("stream", [True, False])
def test_no_client_can_tell_by_its_commonest_answers(workers, client, stream):
    success = {} if client in SDKS else {"status": 200, "json": {"data": []}}
    for answers in (
        [success],
        [{"code": "insufficient_funds"}],
        [{"code": "rate_limit_exceeded"}, success],
        [{"status": 500, "size": 200_000, "chunked": True}],
        [{"code": "internal_error", "fault": "truncate"}],
        [{"fault": "drop"}, {"fault": "drop"}],
    ):
        check(workers, Scenario(client, "POST", "json", answers, stream=stream))


@pytest.mark.parametrize("client", PLAIN)
@pytest.mark.parametrize(
    ("status", "kind"), [(200, "text/event-stream"), (500, "application/json")]
)
def test_a_chunk_ends_where_it_ended(workers, client, status, kind):
    answer = {
        "status": status,
        "content_type": kind,
        "body": [b"data: {}\n\nda", b"ta: {}\n", b"\ndata: [DONE]\n\n"],
        "chunk_delay_s": 0.05,
    }
    check(workers, Scenario(client, answers=[answer], stream=True, read="bytes", apart=True))


@pytest.mark.parametrize("before", ["", "x" * 100_000], ids=["small", "large"])
def test_the_kit_itself_sees_a_difference(workers, before):
    workers["bare"].begin(Scenario("httpx", answers=[{"status": 200, "body": f"{before}one"}]))
    workers["ours"].begin(Scenario("httpx", answers=[{"status": 200, "body": f"{before}two"}]))

    assert workers["bare"].end() != workers["ours"].end()
