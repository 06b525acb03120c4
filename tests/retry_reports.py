"""Policies for `check_retries`, and what its report says of one."""

from __future__ import annotations

import os

import httpx
import openai

from assisters_otel.testing import RetryPolicyError, check_retries

SENT = {"model": "assisters-embed-v1", "input": "hello"}
HEADERS = {"Authorization": "Bearer ask_test"}
NOT_SURVIVED = {"rate_limited", "overloaded", "internal_error"}


TIMED = {"back_off", "jitter"}
"""The remarks on measured pauses: of a caller that waits for a core they may be wrong."""


def rows(call, **options):
    """The names of the errors and of the remarks but `TIMED`, and the report."""
    try:
        report = check_retries(call, **options)
    except RetryPolicyError as error:
        report, text = error.report, str(error)
    else:
        text = ""
    assert text == ("" if report.ok else f"\n{report}")
    print(report)  # noqa: T201 - for whoever reads a failure
    errors = {row.rule for row in report.errors}
    return errors, {row.rule for row in report.remarks} - TIMED, report


def timed(report):
    """The remarks on measured pauses."""
    return TIMED & {row.rule for row in report.remarks}


def is_busy():
    """True if more processes want a core than there are: then no pause is what it was to be."""
    return os.getloadavg()[0] > (os.cpu_count() or 1)


def too_busy(report):
    """The rules that could not be judged, since other processes had the machine."""
    return {row.rule for row in report.rows if row.seen.endswith("too busy to tell it from jitter")}


def seen(report, rule):
    (row,) = [row for row in report.rows if row.rule == rule]
    return row.seen


def post(api):
    with httpx.Client(base_url=api.url, headers=HEADERS, trust_env=False) as client:
        return client.post("/embeddings", json=SENT).raise_for_status()


def by_openai(**options):
    def call(api):
        with openai.OpenAI(base_url=api.url, api_key="ask_test", **options) as client:
            client.embeddings.create(**SENT)

    return call
