"""urllib3's `Retry`, which is patched once for all hosts, where a host is not watched."""

from __future__ import annotations

import pytest
import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

import assisters_otel
from assisters_otel.testing import FakeApi

RETRIES = {"total": 2, "status_forcelist": [503], "backoff_factor": 0, "allowed_methods": None}


@pytest.fixture(params=[True, False], ids=["strict", "not strict"])
def status(request, api, memory):
    """Watches `api` alone, and tells its own trouble in one way or the other."""
    with assisters_otel.init(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
        strict=request.param,
    ) as telemetry:
        yield telemetry.status


@pytest.fixture
def other():
    with FakeApi() as other:
        yield other


def by_requests(url):
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://", HTTPAdapter(max_retries=Retry(**RETRIES)))
        return session.post(url, data=b"{}", timeout=60).status_code


def by_urllib3(url):
    with urllib3.PoolManager() as pool:
        return pool.request("POST", url, body=b"{}", retries=Retry(**RETRIES)).status


@pytest.mark.parametrize("send", [by_requests, by_urllib3])
@pytest.mark.parametrize(
    "answer", [{"status": 503}, {"fault": "drop"}, {"redirect": "/v1/embeddings"}], ids=str
)
def test_what_urllib3_sends_again_to_a_host_that_is_not_watched_is_none_of_ours(
    memory, status, other, send, answer, caplog
):
    other.answers(**answer, times=2)

    assert send(f"{other.url}/embeddings") == 200

    assert [sorted(one.headers) for one in other.requests] == [
        sorted(other.requests[0].headers)
    ] * 3
    assert "traceparent" not in other.requests[0].headers
    _is_nothing(memory, status(), caplog)


@pytest.mark.parametrize("send", [by_requests, by_urllib3])
@pytest.mark.parametrize("answer", [{"status": 503}, {"fault": "drop"}], ids=str)
def test_what_urllib3_gives_up_at_a_host_that_is_not_watched_is_none_of_ours(
    memory, status, other, send, answer, caplog
):
    other.answers(**answer, times=3)

    with pytest.raises((requests.RequestException, urllib3.exceptions.HTTPError)) as met:
        send(f"{other.url}/embeddings")

    assert len(other.requests) == 3
    assert "Max retries exceeded" in str(met.value)
    _is_nothing(memory, status(), caplog)


def test_what_urllib3_sends_again_by_itself_to_a_watched_host_is_none_of_ours(
    api, memory, status, caplog
):
    """It goes through no client that is watched."""
    api.answers(status=503)

    assert by_urllib3(f"{api.url}/embeddings") == 200

    _is_nothing(memory, status(), caplog)


def _is_nothing(memory, told, caplog):
    assert memory.spans() == []
    assert memory.collect() == {}
    assert (told.attempts, told.errors, told.last_failure) == (0, 0, None)
    assert [one for one in caplog.records if one.name == "assisters_otel"] == []
