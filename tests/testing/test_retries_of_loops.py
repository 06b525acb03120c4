"""What `check_retries` finds in the libraries that people retry with, and in the examples."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import aiohttp
import httpx
import pytest
import requests
import stamina
import tenacity
from aiohttp_retry import ExponentialRetry, RetryClient
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from assisters_otel import retryable
from retry_reports import HEADERS, SENT, is_busy, post, rows, seen, timed, too_busy

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_tenacity_that_retries_each_exception_asks_again_in_vain():
    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(Exception),
        stop=tenacity.stop_after_attempt(4),
        wait=tenacity.wait_fixed(1),
    )
    def send(client):
        client.post("/embeddings", json=SENT).raise_for_status()

    def call(api):
        with httpx.Client(base_url=api.url, headers=HEADERS, trust_env=False) as client:
            send(client)

    errors, remarks, report = rows(call)

    assert errors == {"retry_after", "hopeless"}
    assert remarks == {"idempotency"}
    assert is_busy() or timed(report) | too_busy(report) == {"back_off", "jitter"}
    assert seen(report, "hopeless") == "sent again after all 12"


def test_stamina_with_the_predicate_alone_does_not_wait_as_long_as_it_is_asked_to():
    call = stamina.retry(on=retryable, attempts=5, wait_initial=0.25)(post)

    errors, remarks, _ = rows(call)

    assert (errors, remarks) == ({"retry_after"}, {"idempotency"})


def by_urllib3(api):
    policy = Retry(
        3,
        status_forcelist=[429, 500, 503],
        allowed_methods=None,
        backoff_factor=0.5,
        raise_on_status=False,
    )
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://", HTTPAdapter(max_retries=policy))
        response = session.post(f"{api.url}/embeddings", json=SENT, timeout=4)
        response.raise_for_status()


def test_urllib3_s_retry_knows_no_codes_and_has_no_jitter():
    errors, remarks, report = rows(by_urllib3)

    assert errors == {"hopeless"}
    assert remarks == {"idempotency"}
    assert is_busy() or timed(report) | too_busy(report) == {"jitter"}
    assert seen(report, "hopeless") == "sent again after tokens_exhausted"


def test_a_loop_around_urllib3_s_retry_is_two_layers():
    call = tenacity.retry(
        retry=tenacity.retry_if_exception(retryable),
        stop=tenacity.stop_after_attempt(2),
        wait=tenacity.wait_fixed(0.1),
    )(by_urllib3)

    _, remarks, _ = rows(call, leave_out=["own_timeout", "hopeless", "jitter"])

    assert remarks == {"layers", "idempotency"}


def test_aiohttp_retry_ignores_retry_after():
    async def call(api):
        policy = ExponentialRetry(attempts=3, start_timeout=0.5, statuses={429, 500, 503})
        timeout = aiohttp.ClientTimeout(total=4)
        async with (
            RetryClient(retry_options=policy, timeout=timeout) as client,
            client.post(f"{api.url}/embeddings", json=SENT) as response,
        ):
            response.raise_for_status()
            await response.read()

    errors, remarks, report = rows(call)

    assert errors == {"retry_after", "hopeless"}
    assert remarks == set()
    assert is_busy() or timed(report) | too_busy(report) == {"jitter"}
    assert seen(report, "hopeless") == "sent again after tokens_exhausted"
    assert seen(report, "idempotency") == "it is not sent again"


@pytest.mark.parametrize(
    "name",
    [
        "retry_policy", "retry_with_tenacity", "retry_with_stamina", "retry_with_backoff",
        "retry_with_httpx_retries",
    ],
)  # fmt: skip
def test_the_examples_keep_every_rule(name):
    pytest.importorskip("backoff" if name.endswith("backoff") else "httpx")
    code = (
        f"import {name}\n"
        "from assisters_otel.testing import check_retries\n"
        f"report = check_retries({name}.call)\n"
        "print([row.rule for row in report.rows if row.outcome != 'kept'\n"
        "       and 'on a machine too busy' not in row.seen], report)"
    )
    path = [str(EXAMPLES), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.startswith("['streams'] "), done.stdout + done.stderr
    assert "Assisters API" not in done.stderr
