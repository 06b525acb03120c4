"""An app of its own process: real clients, a fake API, telemetry by the standard variables.

It reads orders from standard input, one JSON object a line: the name of a scene and its
arguments; and answers each with one JSON line: what the scene returned, and how long it took.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from typing import Any

import httpx
from opentelemetry import trace

import assisters_otel
from assisters_otel import catalog
from assisters_otel.testing import FakeApi

MODEL = "assisters-chat-v1"
KEY = "ask_planted-key-0123456789"
OPTIONS = {"api_key": KEY, "max_retries": 2}


def failures() -> tuple[type[Exception], ...]:
    """What a client raises for an answer that is none, of the SDKs that are imported."""
    of_sdks = {"openai": "OpenAIError", "assisters": "AssistersAPIError"}
    imported = of_sdks.keys() & sys.modules.keys()
    return (httpx.HTTPError, *(getattr(sys.modules[one], of_sdks[one]) for one in imported))


class Scenes:
    """What the app can be told to do. An SDK is imported by the first scene that calls it.

    To import all takes longer than most scenes.
    """

    def __init__(self, api: FakeApi, telemetry: assisters_otel.Telemetry) -> None:
        self.api = api
        self.telemetry = telemetry
        self.http = httpx.Client(headers={"Authorization": f"Bearer {KEY}"}, timeout=30)
        self.loop = asyncio.new_event_loop()

    @cached_property
    def openai(self) -> Any:
        return importlib.import_module("openai").OpenAI(base_url=self.api.url, **OPTIONS)

    @cached_property
    def aio(self) -> Any:
        return importlib.import_module("openai").AsyncOpenAI(base_url=self.api.url, **OPTIONS)

    @cached_property
    def assisters(self) -> Any:
        make = importlib.import_module("assisters").Assisters
        return make(KEY, base_url=self.api.url, max_retries=3)  # attempts

    def call(self, client: str = "openai") -> str:
        """One chat by an SDK; the name of what it raised, or "ok"."""
        # Of words of its own: the same ones after a failure would be a resend, and are elsewhere.
        words = f"planted-prompt {time.perf_counter_ns()}"
        create = {"model": MODEL, "messages": [{"role": "user", "content": words}]}
        try:
            if client == "openai":
                self.openai.chat.completions.create(**create)
            elif client == "openai-async":
                self.loop.run_until_complete(self.aio.chat.completions.create(**create))
            else:
                self.assisters.chat.completions.create(**create)
        except failures() as error:
            return type(error).__name__
        return "ok"

    def stream(self, client: str = "openai", times: int = 1, **answer: object) -> list[str]:
        """Chats as event streams; what each raised, or "ok"."""
        said = []
        for _ in range(times):
            self.api.answers(**answer)
            words = f"planted-prompt {time.perf_counter_ns()}"
            create = {"model": MODEL, "messages": [{"role": "user", "content": words}]}
            try:
                if client == "httpx":
                    with self.http.stream(
                        "POST", f"{self.api.url}/chat/completions", json=create | {"stream": True}
                    ) as response:
                        response.read()
                else:
                    sdk = self.openai if client == "openai" else self.assisters
                    list(sdk.chat.completions.create(**create, stream=True))
                said.append("ok")
            except failures() as error:
                said.append(type(error).__name__)
        return said

    def codes(self, client: str) -> dict[str, str]:
        """Each documented code, with the message that must not get out; what the app saw."""
        seen = {}
        for error in catalog.ERRORS:
            self.api.answers(
                code=error.code,
                message=f"planted-message {KEY}",
                retry_after=0.05 if error.retryable else None,
                times=3,
            )
            seen[error.code] = self.call(client)
            self.api.reset()
        return seen

    def recovered(self, client: str = "openai") -> str:
        """429, 503, 200."""
        self.api.answers("rate_limit_exceeded", "model_overloaded", retry_after=0.1)
        return self.call(client)

    def agent(self) -> str:
        """A GET whose query is a prompt."""
        url = f"{self.api.url}/agent/stream"
        return str(self.http.get(url, params={"prompt": "planted-prompt"}).status_code)

    def ok(self, times: int = 1) -> int:
        """Successes."""
        return sum(self.get() == 200 for _ in range(times))

    def get(self) -> int:
        """One request; its status, 0 if there was no answer."""
        with suppress(httpx.HTTPError):
            return self.http.get(f"{self.api.url}/models").status_code
        return 0

    def each(self, *codes: str, times: int = 1, **answer: object) -> int:
        """Requests answered as told; how many."""
        count = 0
        for code in codes or ("",):
            if code:
                self.api.answers(code, times=times, **answer)
            else:
                self.api.answers(times=times, **answer)
            for _ in range(times):
                # A body of its own makes each a first.
                count += 1
                body = {"model": MODEL, "input": f"{time.perf_counter_ns()}"}
                with suppress(httpx.HTTPError):
                    self.http.post(f"{self.api.url}/embeddings", json=body)
        return count

    def keys(self, answers: dict[str, dict[str, Any]]) -> list[str]:
        """One chat with each key, which has an answer of its own; what each raised, or "ok"."""
        said = []
        for key, answer in answers.items():
            self.api.answers(**answer)
            words = f"planted-prompt {time.perf_counter_ns()}"
            try:
                self.openai.with_options(api_key=key, max_retries=0).chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": words}]
                )
                said.append("ok")
            except failures() as error:
                said.append(type(error).__name__)
        return said

    def books(self) -> int:
        """The tokens, in and out, that the API has told its clients of."""
        return sum(one.input_tokens + one.output_tokens for one in self.api.usage)

    def again(self, code: str, times: int, retry_after: float | None = None) -> int:
        """One request sent again and again, at once."""
        self.api.answers(code, times=times, retry_after=retry_after)
        # Without a body it would say too little to be known again.
        body = {"model": MODEL, "input": "again"}
        for _ in range(times):
            self.http.post(f"{self.api.url}/embeddings", json=body)
        return times

    def give_up(self, calls: int) -> list[str]:
        """Calls of an SDK that fail although they were retried."""
        self.api.answers("model_overloaded", times=3 * calls, retry_after=0.01)
        return [self.call() for _ in range(calls)]

    def slow(self, times: int, delay_s: float) -> int:
        """Slow successes, side by side."""
        self.api.answers(delay_s=delay_s, times=times)
        with ThreadPoolExecutor(times) as pool:
            return sum(pool.map(lambda _: self.get() == 200, range(times)))

    def drip(self, code: str, times: int, gap_s: float) -> int:
        """One failure after another, each a while after the last."""
        for _ in range(times):
            self.each(code)
            time.sleep(gap_s)
        return times

    def cancel(self, times: int) -> int:
        """Requests that a time-out of the app's own cancels; how many."""
        self.api.answers(delay_s=5, times=times)

        async def hasty() -> int:
            cancelled = 0
            async with httpx.AsyncClient() as client:
                for _ in range(times):
                    done = asyncio.ensure_future(client.get(f"{self.api.url}/models"))
                    await asyncio.wait([done], timeout=0.05)
                    cancelled += done.cancel()
                    with suppress(asyncio.CancelledError):
                        await done
            return cancelled

        return self.loop.run_until_complete(hasty())

    def part(self, traceparent: str, code: str = "ok") -> str:
        """One request within a trace that another process began."""
        trace_id, span_id = traceparent.split("-")[1:3]
        parent = trace.NonRecordingSpan(
            trace.SpanContext(
                int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=trace.TraceFlags(1)
            )
        )
        self.api.answers(code)
        with trace.use_span(parent):
            return str(self.get())

    def firsts(self, times: int, code: str = "ok") -> list[str]:
        """Traces of one request each; their ids."""
        tracer = trace.get_tracer("app")
        ids = []
        for _ in range(times):
            self.api.answers(code)
            with tracer.start_as_current_span("work") as span:
                self.get()
            ids.append(f"{span.get_span_context().trace_id:032x}")
        return ids

    def work(self, *, fails: bool = False, takes_s: float = 0) -> list[str]:
        """A trace with a successful request in it, whose own work fails or takes long; its id."""
        with trace.get_tracer("app").start_as_current_span("work") as span:
            self.get()
            time.sleep(takes_s)
            if fails:
                span.set_status(trace.StatusCode.ERROR)
        return [f"{span.get_span_context().trace_id:032x}"]

    def flush(self) -> bool:
        """Send what is queued."""
        return self.telemetry.flush(10)


def main() -> None:
    """Do as the lines say, until they end."""
    with FakeApi() as api, assisters_otel.init(hosts=[api.url]) as telemetry:
        scenes = Scenes(api, telemetry)
        print(json.dumps({"ready": api.url}), flush=True)
        for line in sys.stdin:
            order = json.loads(line)
            begun = time.perf_counter()
            said = getattr(scenes, order["do"])(*order["args"], **order["options"])
            took_s = time.perf_counter() - begun
            print(json.dumps({"said": said, "took_s": took_s}), flush=True)


if __name__ == "__main__":
    main()
