"""What ends a call, in whatever order its body is told of."""

from __future__ import annotations

import pytest
from opentelemetry.trace import INVALID_SPAN, INVALID_SPAN_CONTEXT

from assisters_otel.api import endpoints
from assisters_otel.api.event_stream import EventStreamScanner
from assisters_otel.api.request import ApiRequest
from assisters_otel.attempts.attempt import Attempt
from assisters_otel.attempts.call import Call
from assisters_otel.attempts.call_request import CallRequest
from assisters_otel.outcomes import AttemptOutcome
from assisters_otel.recording.response_body import ResponseBody

DONE = b"data: [DONE]\n\n"


class Watched:
    """A watcher of a call and of its bodies, that keeps the outcomes."""

    def __init__(self):
        self.told = []
        self.call = None
        self.running = set()

    @property
    def deferred(self):
        return self

    def put(self, step):
        self.put_off(step)

    def body_failed(self, _body, _outcome):
        pass

    def body_ended(self, body, _outcome, at):
        self.call.body_ended(body, at)

    def raised(self, _call, _error):
        pass

    def waits(self, _call):
        self.told.append("waits")

    def ended(self, _call, outcome, _end_ns):
        self.told.append((outcome.outcome, outcome.exception))

    def is_collecting(self):
        return False

    def put_off(self, step):
        self.told.append("put off")
        step()


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ("returned", [("ok", None)]),
        ("raised", [("failed", "ValueError")]),
        ("body ended returned", [("ok", None)]),
        ("body returned ended", ["waits", ("ok", None)]),
        ("body returned closed", ["waits", ("cancelled", None)]),
        ("body returned done closed", ["waits", ("ok", None)]),
        ("body returned broke", ["waits", ("failed", None)]),
        ("body returned interrupted", ["waits", ("cancelled", None)]),
        ("body returned done broke", ["waits", ("ok", None)]),
        ("body returned dropped", ["waits", "put off", ("cancelled", None)]),
        ("body returned ended broke closed dropped ended", ["waits", ("ok", None)]),
        ("body returned closed ended broke", ["waits", ("cancelled", None)]),
        # The SDK has read the whole stream before its caller gets any of it.
        ("chat ended returned", [("failed", None)]),
        ("chat done ended returned", [("ok", None)]),
        ("chat returned ended", ["waits", ("failed", None)]),
        # The SDK sends it again: its first body is none of the caller's.
        ("body broke body returned ended", ["waits", ("ok", None)]),
        ("body broke raised", [("failed", "ValueError")]),
        ("body dropped raised", ["put off", ("failed", "ValueError")]),
    ],
)
def test_a_call_ends_once_with_the_first_thing_that_ends_it(steps, told):
    watcher = Watched()
    asked = CallRequest(ApiRequest("GET", "/v1/models", "/v1/models", "localhost", 443), None, None)
    call = Call(asked, INVALID_SPAN, INVALID_SPAN_CONTEXT, watcher, is_ours=False)
    watcher.call = call
    body = None
    for step in steps.split():
        if step in {"body", "chat"}:
            template = endpoints.CHAT if step == "chat" else "/v1/models"
            request = ApiRequest("GET", template, template, "localhost", 443)
            attempt = Attempt(request, None, None, None, call)
            attempt.outcome = AttemptOutcome.of(request, 0.0, status=200)
            scanner = EventStreamScanner()
            body = ResponseBody(watcher, attempt, scanner, lambda _: True, watcher)
            call.body = body
        elif step == "done":
            body.feed(DONE)
        elif step == "raised":
            call.raised(ValueError())
        elif step == "returned":
            call.returned()
        elif step in {"broke", "interrupted"}:
            body.broke(ValueError() if step == "broke" else KeyboardInterrupt())
        else:
            getattr(body, step)()

    assert watcher.told == told
