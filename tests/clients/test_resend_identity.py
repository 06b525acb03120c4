"""What an attempt is a resend of: while a stream is still open, without a span, inside one call."""

from __future__ import annotations

import contextlib
import contextvars
import threading

import assisters
import httpx
import httpx2
import openai
import pytest
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import assisters_otel
from callers import ANYONE
from memory import Memory
from streamers import SDKS, UNPARSED, UNSTREAMED

ERRORS = "assisters.client.errors"
RETRIES = "assisters.client.retries"
COUNT = "http.request.resend_count"
BODY = {"model": "assisters-embed-v1", "input": "hello"}
ERROR = b'data: {"error": {"code": "internal_error", "type": "server_error"}}\n\n'


def numbers(memory):
    return [span.attributes.get(COUNT, 0) for span in memory.attempts()]


# -- after an error event ---------------------------------------------------------------------


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("streamer", UNPARSED, ids=str)
def test_what_is_sent_while_a_failed_stream_is_open_is_its_resend_and_the_only_one(
    api, memory, streamer
):
    """However much follows the error event: it is reported once, when it comes."""
    api.answers(
        body=[b'data: {"choices": []}\n\n', ERROR, ERROR, ERROR, b"data: [DONE]\n\n"],
        content_type="text/event-stream",
        chunk_delay_s=0.03,
    )

    async def script(opened):
        failed = await opened()
        while "internal_error" not in str(await failed.read()):
            pass
        again = await opened()
        await again.rest()
        await failed.rest()
        await failed.close()
        await (await opened()).rest()

    streamer.use(api.url, script)

    assert numbers(memory) == [0, 1, 0]
    assert memory.attempts()[1].attributes["assisters.retry.reason"] == "internal_error"
    assert memory.point(RETRIES)["value"] == memory.point(ERRORS)["value"] == 1


# -- without a span ---------------------------------------------------------------------------


@contextlib.contextmanager
def unsampled(api, memory):
    del memory
    unseen = Memory(sampler=ALWAYS_OFF)
    with watching(api, unseen):
        yield unseen
    unseen.shutdown()


@contextlib.contextmanager
def suppressed(api, memory):
    with watching(api, memory), suppress_instrumentation():
        yield memory


def watching(api, memory):
    return assisters_otel.init(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
        strict=True,
    )


def in_a_thread(send, *args):
    """Send in a thread of its own, under the span that is current here."""
    around = contextvars.copy_context()
    thread = threading.Thread(target=around.run, args=(send, *args))
    thread.start()
    thread.join()


def send(sender, api):
    if sender in ANYONE:
        sender.send("POST", f"{api.url}/embeddings", json=BODY)
    else:
        with contextlib.suppress(openai.OpenAIError, assisters.AssistersAPIError):
            sender.use(api.url, lambda opened: opened())


@pytest.mark.parametrize("without", [unsampled, suppressed])
@pytest.mark.parametrize("sender", [*ANYONE, *UNSTREAMED], ids=str)
def test_what_had_no_span_is_known_by_the_app_s_when_another_thread_sends_it_again(
    api, memory, sender, without
):
    api.answers("internal_error", "ok")

    with without(api, memory) as told:
        tracer = told.tracer_provider.get_tracer("app")
        with tracer.start_as_current_span("work"):
            for _ in range(2):
                in_a_thread(send, sender, api)

        assert told.attempts() == []
        (retry,) = told.points(RETRIES)
        assert (retry["value"], retry["assisters.retry.reason"]) == (1, "internal_error")


# -- inside one call --------------------------------------------------------------------------


def persistent(sdk):
    """Have an SDK's HTTP client send each request three times, whatever the answer."""

    def make(*args):
        client = sdk.make(*args)
        http = getattr(client, "_http", None) or client._client
        module = httpx if isinstance(http, httpx.Client) else httpx2

        class Auth(module.Auth):
            def auth_flow(self, request):
                for _ in range(3):
                    yield request

        http.auth = Auth()
        return client

    return sdk._replace(make=make)


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("sdk", [*SDKS, *UNSTREAMED], ids=str)
def test_what_is_sent_in_a_call_after_a_success_is_its_next_resend(api, memory, sdk):
    async def script(opened):
        await (await opened()).rest()

    persistent(sdk).use(api.url, script)

    assert len(api.requests) == 3
    assert numbers(memory) == [0, 1, 2]
    assert memory.call().attributes["assisters.retry.count"] == 2
    retry = memory.point(RETRIES)
    assert (retry["value"], "assisters.retry.reason" in retry) == (2, False)
