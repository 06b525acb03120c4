"""Two keys of one app: each has a headroom, tokens and alerts of its own, on the real servers."""

from __future__ import annotations

import hashlib

import pytest
from servers import within

NEAR, FAR = "ask_near-its-limit-0123456789", "ask_far-from-its-limit-0123456789"
SERVICE = "two-keys"


def fingerprint(key: str) -> str:
    """What ``printf %s "$KEY" | sha256sum | cut -c1-8`` prints."""
    return hashlib.sha256(key.encode()).hexdigest()[:8]


def left(tokens: int) -> dict[str, dict[str, str]]:
    """An answer that leaves so many of 100,000 tokens."""
    return {"headers": {"x-ratelimit-remaining-tpm": str(tokens)}}


@pytest.fixture(scope="module")
def two(stack, session_app):
    return session_app(SERVICE, stack.collector.http)


def by_key(stack, metric):
    found = stack.prometheus.query(
        f'sum by (assisters_api_key_fingerprint) ({metric}{{service_name="{SERVICE}"}})'
    )
    return {one.get("assisters_api_key_fingerprint"): one["value"] for one in found}


def test_each_key_has_a_headroom_of_its_own_and_one_is_told_to_be_low(stack, two):
    arrived = []

    def low():
        two.does("keys", {NEAR: left(1000), FAR: left(90_000)})
        two.does("flush")
        arrived[:] = stack.webhook.of("AssistersHeadroomLow", service_name=SERVICE)
        return arrived

    assert within(90, low), stack.prometheus.alerts()

    metric = "assisters_client_ratelimit_tokens_remaining"
    assert by_key(stack, metric) == {fingerprint(NEAR): 1000, fingerprint(FAR): 90_000}
    told = {one["labels"]["assisters_api_key_fingerprint"] for one in arrived}
    assert told == {fingerprint(NEAR)}
    assert f"for the key {fingerprint(NEAR)}" in arrived[0]["annotations"]["summary"]


def test_a_second_revoked_key_is_an_alert_of_its_own(stack, two):
    revoked = {"code": "api_key_revoked"}

    for key in (NEAR, FAR):
        assert two.does("keys", {key: revoked}) == ["AuthenticationError"]
        two.does("flush")

        def arrived(key=key):
            return stack.webhook.of(
                "AssistersKeyRevoked",
                service_name=SERVICE,
                assisters_api_key_fingerprint=fingerprint(key),
            )

        assert within(60, arrived), stack.prometheus.alerts()
        assert fingerprint(key) in arrived()[0]["annotations"]["summary"]


def test_the_tokens_by_key_are_those_in_the_books(stack, two):
    two.does("keys", {NEAR: left(50_000), FAR: left(90_000)})
    two.does("flush")
    booked = two.does("books")

    def told():
        found = by_key(stack, "gen_ai_client_token_usage_sum")
        return found if sum(found.values()) == booked else None

    assert booked > 0
    found = within(30, told)
    assert found, by_key(stack, "gen_ai_client_token_usage_sum")
    assert found.keys() == {fingerprint(NEAR), fingerprint(FAR)}


def test_no_key_is_anywhere(stack, two):
    two.does("flush")
    page = str(stack.prometheus.query(f'{{service_name="{SERVICE}"}}'))

    assert fingerprint(NEAR) in page
    assert NEAR not in page
    assert FAR not in page
