"""A client is thrown out of `sys.modules` and imported anew, as reloaders and test suites do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scripts import passed

PATH = os.pathsep.join((os.environ.get("PYTHONPATH", ""), str(Path(__file__).parents[1])))

SCRIPT = """
import asyncio
import importlib
import sys

import assisters_otel
from assisters_otel.testing import FakeApi
from memory import Memory

{fetch}

def throw_out(*packages):
    for name in list(sys.modules):
        if name.partition(".")[0] in packages:
            del sys.modules[name]

def spans():
    return [span.attributes.get("error.code") for span in memory.attempts()]

memory = Memory()
with FakeApi() as api, assisters_otel.init(
    hosts=[api.url],
    tracer_provider=memory.tracer_provider,
    meter_provider=memory.meter_provider,
    strict=True,
) as telemetry:
    old = importlib.import_module("{module}")
    api.answers("api_key_revoked", "ok", "internal_error", "ok", "insufficient_funds", "ok")
    told = [fetch(old, api.url), fetch(old, api.url)]
    throw_out({packages})
    new = importlib.import_module("{module}")
    assert new is not old
    told += [fetch(new, api.url), fetch(new, api.url)]
    # Who holds the old one uses it; but openai's imports parts of itself with its first call.
    held = new if old.__name__ == "openai" else old
    told += [fetch(held, api.url), fetch(held, api.url)]
    assert told == [401, 200, 500, 200, 402, 200], told
    codes = ["api_key_revoked", None, "internal_error", None, "insufficient_funds", None]
    assert spans() == codes, spans()
    assert len(memory.points("assisters.client.errors")) == 3
    assert "{package}" in [client.name for client in telemetry.status().clients]
    patched = {{module: vars({owner})[{name!r}] for module in (old, new)}}
    assert all(hasattr(function, "__wrapped__") for function in patched.values())
for module, function in patched.items():
    assert vars({owner})[{name!r}] is function.__wrapped__, "still patched after shutdown"
"""

HTTPX = """
def fetch(httpx, url):
    with httpx.Client(trust_env=False) as client, client.stream("GET", url + "/models") as response:
        response.read()
        assert response.status_code == 200 or "code" in response.json()["error"]
        return response.status_code
"""
HTTPX_ASYNC = """
def fetch(httpx, url):
    async def whole():
        async with httpx.AsyncClient(trust_env=False) as client:
            response = await client.get(url + "/models")
            assert response.status_code == 200 or "code" in response.json()["error"]
            return response.status_code
    return asyncio.run(whole())
"""
REQUESTS = """
def fetch(requests, url):
    response = requests.get(url + "/models", timeout=10)
    assert response.status_code == 200 or "code" in response.json()["error"]
    return response.status_code
"""
AIOHTTP = """
def fetch(aiohttp, url):
    async def whole():
        async with aiohttp.ClientSession() as session, session.get(url + "/models") as response:
            body = await response.json()
            assert response.status == 200 or "code" in body["error"]
            return response.status
    return asyncio.run(whole())
"""
OPENAI = """
def fetch(openai, url):
    with openai.OpenAI(base_url=url, api_key="ask_k", max_retries=0) as client:
        try:
            client.models.list()
        except openai.APIStatusError as error:
            assert assisters_otel.explain(error).code == error.code
            return error.status_code
        return 200
"""
ASSISTERS = """
def fetch(assisters, url):
    with assisters.Assisters("ask_k", base_url=url, max_retries=1) as client:
        try:
            client.models.list()
        except assisters.AssistersAPIError as error:
            return error.status
        return 200
"""
TRANSPORT = "module.HTTPTransport", "handle_request"


@pytest.mark.parametrize(
    ("module", "fetch", "packages", "owner", "name"),
    [
        ("httpx", HTTPX, ["httpx"], *TRANSPORT),
        ("httpx2", HTTPX, ["httpx2"], *TRANSPORT),
        ("httpx", HTTPX_ASYNC, ["httpx", "httpcore"], *TRANSPORT),
        ("requests", REQUESTS, ["requests"], "module.adapters.HTTPAdapter", "send"),
        ("requests", REQUESTS, ["requests", "urllib3"], "module.Session", "send"),
        ("aiohttp", AIOHTTP, ["aiohttp"], "module.ClientSession", "_request"),
        ("openai", OPENAI, ["openai"], "module._base_client.SyncAPIClient", "request"),
        ("openai", OPENAI, ["openai", "httpx2"], "module._base_client.SyncAPIClient", "request"),
        ("assisters", ASSISTERS, ["assisters"], "module.Assisters", "_request"),
        ("assisters", ASSISTERS, ["assisters", "httpx"], "module.Assisters", "_request"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_a_client_that_is_imported_anew_is_watched_and_the_old_one_too(
    module, fetch, packages, owner, name
):
    passed(
        SCRIPT.format(
            module=module,
            package=module,
            fetch=fetch,
            packages=", ".join(map(repr, packages)),
            owner=owner,
            name=name,
        ),
        PYTHONPATH=PATH,
    )


def test_a_client_that_is_reloaded_is_watched_once():
    passed(
        """
        import importlib

        import httpx

        import assisters_otel
        from assisters_otel.testing import FakeApi
        from memory import Memory

        memory = Memory()
        with FakeApi() as api, assisters_otel.init(
            hosts=[api.url],
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
            strict=True,
        ):
            importlib.reload(importlib.import_module("httpx._transports.default"))
            importlib.reload(httpx)
            api.answers("internal_error")
            with httpx.Client(transport=httpx.HTTPTransport()) as client:
                told = client.get(api.url + "/models").json()
            assert told["error"]["code"] == "internal_error"
        assert memory.attempt().attributes["error.code"] == "internal_error"
        assert not hasattr(httpx.HTTPTransport.handle_request, "__wrapped__")
        """,
        PYTHONPATH=PATH,
    )


def test_nothing_waits_for_an_import_after_shutdown():
    passed(
        """
        import sys

        import assisters_otel
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.trace import TracerProvider

        before = list(sys.meta_path)
        with assisters_otel.init(tracer_provider=TracerProvider(), meter_provider=MeterProvider()):
            assert sys.meta_path != before
        assert sys.meta_path == before
        import httpx
        assert not hasattr(httpx.HTTPTransport.handle_request, "__wrapped__")
        """
    )
