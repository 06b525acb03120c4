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


@pytest.mark.parametrize("send", [by_requests, by_urllib3])
@pytest.mark.parametrize("answer", [{"status": 503}, {"fault": "drop"}], ids=str)
def test_what_a_body_is_made_of_is_no_attempt_at_the_api(
    api, memory, status, other, send, answer, caplog
):
    """The iterator that is the body of a watched request asks another host, more than once."""
    other.answers(**answer, times=2)

    def body():
        yield str(send(f"{other.url}/embeddings")).encode()

    with requests.Session() as session:
        session.trust_env = False
        assert session.post(f"{api.url}/embeddings", data=body()).status_code == 200

    assert (len(other.requests), api.requests[0].body) == (3, b"200")
    assert (status().attempts, status().errors, status().last_failure) == (1, 0, None)
    assert [span.attributes["server.port"] for span in memory.spans()] == [api.port]
    assert "error.type" not in memory.spans()[0].attributes
    assert [one for one in caplog.records if one.name == "assisters_otel"] == []


class Elsewhere(HTTPAdapter):
    """Sends to an address of its own, as an adapter of requests-toolbelt does."""

    def __init__(self, port, **options):
        super().__init__(**options)
        self._port = port

    def get_connection_with_tls_context(self, *_, **__):
        return self.poolmanager.connection_from_url(f"http://127.0.0.1:{self._port}")

    get_connection = get_connection_with_tls_context


def test_what_urllib3_sends_again_to_an_address_of_the_adapters_is_an_attempt(other, memory):
    other.answers(status=503, times=2)
    with (
        assisters_otel.init(
            tracer_provider=memory.tracer_provider, meter_provider=memory.meter_provider
        ) as telemetry,
        requests.Session() as session,
    ):
        session.trust_env = False
        session.mount("http://", Elsewhere(other.port, max_retries=Retry(**RETRIES)))
        assert session.post("http://api.assisters.dev/v1/embeddings", data=b"{}").ok
        found = telemetry.status()

    assert (found.attempts, found.errors, found.last_failure) == (3, 2, None)
