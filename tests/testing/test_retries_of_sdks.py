"""What `check_retries` finds in the SDKs, alone and with a loop around them."""

from __future__ import annotations

import asyncio

import assisters
import httpx
import openai
import tenacity

from retry_reports import NOT_SURVIVED, SENT, by_openai, is_busy, rows, seen, timed, too_busy


def test_openai_as_it_comes_asks_again_for_used_up_tokens():
    errors, remarks, report = rows(by_openai())

    assert (errors, remarks) == ({"hopeless"}, {"idempotency", "own_timeout"})
    (row,) = report.errors
    assert row.seen == "sent again after tokens_exhausted"
    assert "max_retries=0" in row.advice
    assert "retryable" in row.advice


def test_openai_without_retries_survives_nothing():
    errors, remarks, _ = rows(by_openai(max_retries=0))

    assert (errors, remarks) == (NOT_SURVIVED, {"own_timeout"})


def test_the_assisters_sdk_as_it_comes_waits_for_nothing():
    def call(api):
        with assisters.Assisters("ask_test", base_url=api.url) as client:
            client.embeddings.create(**SENT)

    errors, remarks, report = rows(call)

    assert errors == {"retry_after", "hopeless"}
    assert remarks == {"own_timeout"}
    assert is_busy() or timed(report) | too_busy(report) == {"back_off", "jitter"}
    assert seen(report, "hopeless") == "sent again after tokens_exhausted"


def test_httpx_bare_hides_each_failure_from_who_does_not_look():
    def call(api):
        return httpx.post(f"{api.url}/embeddings", json=SENT, trust_env=False)

    errors, remarks, report = rows(call)
    assert (errors, remarks) == ({*NOT_SURVIVED, "surfaced"}, set())
    told = "returned Response after rate_limited, overloaded, internal_error and 13 more"
    assert seen(report, "surfaced") == told  # 12 of them hopeless, and the outage

    errors, remarks, _ = rows(call, succeeded=lambda response: response.is_success)
    assert (errors, remarks) == (NOT_SURVIVED, set())


def test_tenacity_around_openai_is_two_layers():
    call = tenacity.retry(
        retry=tenacity.retry_if_exception_type(openai.APIError),
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=2),
    )(by_openai(timeout=5))

    errors, remarks, report = rows(call)

    assert errors == {"hopeless"}
    assert remarks == {"layers", "idempotency"}
    assert seen(report, "layers") == "9 attempts: 3 in each of 3 calls"


def test_tenacity_around_the_assisters_sdk_is_two_layers():
    def call(api):
        with assisters.Assisters("ask_test", base_url=api.url) as client:
            client.embeddings.create(**SENT)

    loop = tenacity.retry(stop=tenacity.stop_after_attempt(2))(call)

    _, remarks, report = rows(loop, leave_out=["own_timeout", "hopeless"])

    assert "layers" in remarks
    assert seen(report, "layers") == "6 attempts: 3 in each of 2 calls"


def test_a_time_out_around_ends_what_has_none_of_its_own():
    async def call(api):
        async with openai.AsyncOpenAI(base_url=api.url, api_key="ask_test") as client:
            await asyncio.wait_for(client.embeddings.create(**SENT), 4.5)

    errors, remarks, report = rows(call)

    # Where the callers wait for a core, their time may be over before the last resend.
    assert is_busy() or (errors, remarks) == ({"hopeless"}, {"idempotency"})
    assert "gave up after " in seen(report, "own_timeout")
