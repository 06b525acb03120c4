"""Every target on any bytes, a while; tests/fuzz/atheris_fuzz.py does it for longer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tracemalloc
from importlib.util import find_spec
from pathlib import Path

import pytest
import targets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from targets import SEEDS, TARGETS, WORDS, run

import leaks
from assisters_otel.api import event_stream, redaction
from assisters_otel.api import headers as response_headers
from sizes import sized

SCRIPT = Path(__file__).with_name("atheris_fuzz.py")
MAX_MEMORY = 64 * targets.MAX_INPUT
RUNS = sized(10_000)
BOUNDED = settings(
    max_examples=sized(1_000),
    deadline=None,  # `run` sees to that, by the time that was worked and not waited
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def near(seeds):
    """Bytes like what the API answers: pieces of it, the words that matter, and noise."""
    whole = st.sampled_from(seeds)
    piece = st.builds(lambda seed, a, b: seed[a : a + b], whole, st.integers(0, 400), st.integers())
    noise = st.binary(max_size=12) | st.builds(
        lambda byte, times: byte * times, st.binary(min_size=1, max_size=9), st.integers(0, 9000)
    )
    mixed = st.lists(whole | piece | st.sampled_from(WORDS) | noise, max_size=8).map(b"".join)
    return mixed | st.builds(lambda seed, end: seed[:2] + end, whole, mixed) | st.binary()


@pytest.fixture(autouse=True)
def fresh_process():
    yield
    targets.end_process()
    # What is mixed from pieces of the seeds may have a piece of the key alone, which is none.
    assert [found for found in leaks.take() if leaks.KEY in found] == []


@pytest.mark.parametrize("name", TARGETS)
def test_no_bytes_of_a_server_do_harm(name):
    @BOUNDED
    @given(near(SEEDS[name]))
    def holds(data):
        run(TARGETS[name], data)

    for seed in SEEDS[name]:
        run(TARGETS[name], seed)
    holds()


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_takes_much_memory(name):
    huge = [
        SEEDS[name][0][:40] + (word * targets.MAX_INPUT)[: targets.MAX_INPUT]
        for word in (b"\n", b"data:\n", b"x", b'{"error":', b"[", b"Bearer ", b"a: b\n", b"\xff")
    ]
    for data in (*SEEDS[name], *huge):  # what is kept for ever is there before
        run(TARGETS[name], data)
    tracemalloc.start()
    try:
        for data in huge:
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            TARGETS[name](data)
            _, peak = tracemalloc.get_traced_memory()
            assert peak - before < MAX_MEMORY, data[:60]
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has no wheel for this Python")
def test_a_fuzzer_that_is_guided_by_coverage_finds_nothing(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")}
    told = subprocess.run(
        [sys.executable, SCRIPT, "any", f"-runs={RUNS}", "-seed=1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )

    assert told.returncode == 0, told.stdout[-3000:] + told.stderr[-3000:]
    assert f"Done {RUNS} runs" in told.stderr
    # It sees the library's branches, which are a thousand.
    assert int(re.findall(r"cov: (\d+)", told.stderr)[-1]) > 500


def test_a_piece_of_the_planted_key_is_no_leak():
    piece = leaks.KEY.removeprefix("ask_live_").encode()

    run(TARGETS["answers"], b'one POST /v1/search\n429\n\n{"error": {"code": "%s"}}' % piece)


# -- the checks can fail -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "data", "wrong"),
    [
        ("secrets", SEEDS["secrets"][0], (redaction, "redact", str)),
        ("answers", SEEDS["answers"][0], (targets, "MAX_VALUE", 4)),
        ("headers", b"9223372036854775808", (response_headers, "_INT64", 2**64)),
        ("headers", b"9" * 400, (response_headers, "_NUMBER", re.compile(rb"(\d+)\Z"))),
    ],
)
def test_a_check_that_was_taken_out_is_missed(target, data, wrong, monkeypatch):
    run(TARGETS[target], data)

    monkeypatch.setattr(*wrong)
    with pytest.raises((AssertionError, ValueError)):
        run(TARGETS[target], data)


def test_a_stream_that_is_kept_is_found(monkeypatch):
    monkeypatch.setattr(event_stream, "MAX_BYTES", 10 * event_stream.MAX_BYTES)

    with pytest.raises(AssertionError):
        run(TARGETS["events"], b"\0\x3fdata: " + b"x" * targets.MAX_INPUT)


def test_an_input_that_takes_long_is_found(monkeypatch):
    monkeypatch.setattr(targets, "MAX_CPU_S", 0.0)

    with pytest.raises(AssertionError, match="took"):
        run(sorted, b"abc")


def test_a_label_outside_its_closed_set_is_found(monkeypatch):
    monkeypatch.setattr(
        "assisters_otel.sinks.label_values.LabelValues.bounded", lambda _, value: value
    )
    code = b'one POST /v1/search\n429\n\n{"error": {"code": "no-%d"}}'

    with pytest.raises(AssertionError, match=r"error\.code"):
        run(TARGETS["answers"], code)
