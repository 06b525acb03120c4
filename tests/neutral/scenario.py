"""One scenario: what an app sends by which client, what it is answered, how it reads and leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator

KIB = 1024
FAILED = 400
HTTPX = ("httpx", "httpx2", "httpx-asyncio", "httpx2-asyncio", "httpx-trio", "httpx2-trio")
PLAIN = (*HTTPX, "requests", "aiohttp")
SDKS = ("openai", "openai-asyncio", "openai-aiohttp", "assisters")
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS")
BODIES = ("none", "json", "bytes", "generator", "multipart", "large")
READS = ("all", "raw", "bytes", "lines", "text", "first", "none")
CLOSES = ("context", "twice", "dropped")
HANGING_S = 0.25
CANCEL_S = 0.1


@dataclass(frozen=True)
class Scenario:
    """One.

    Attributes:
        client: One of `PLAIN` or `SDKS`.
        method: The HTTP method; an SDK has its own.
        body: One of `BODIES`.
        answers: What the fake API is told to answer, one after the other.
        follow: Whether redirects are followed.
        stream: Whether the answer is asked for as a stream.
        read: How that is read, one of `READS`.
        close: One of `CLOSES`.
        cancel_s: When an async caller gives up, or None.
        apart: The server sends its chunks apart in time, so where one ends is no chance and
            is compared.
    """

    client: str
    method: str = "GET"
    body: str = "none"
    answers: list[dict[str, Any]] = field(default_factory=list)
    follow: bool = False
    stream: bool = False
    read: str = "all"
    close: str = "context"
    cancel_s: float | None = None
    apart: bool = False

    @property
    def timeout_s(self) -> float:
        """How long the app waits: where nothing hangs, longer than any machine is busy."""
        return HANGING_S if any(map(hangs, self.answers)) else 30

    @property
    def timeout_after_s(self) -> float:
        """How long it waits for what it sends afterwards."""
        return max(self.timeout_s, 4 * HANGING_S)


def hangs(answer: dict[str, Any]) -> bool:
    """Whether an answer never comes to its end."""
    return answer.get("fault") in {"stall", "silence"}


FORMS: list[dict[str, Any]] = [
    {},
    {"chunked": True},
    {"gzip": True},
    {"chunked": True, "gzip": True},
]
CONTENTS: list[dict[str, Any]] = [
    {},
    {"status": 200, "size": 10 * KIB},
    {"status": 200, "size": 200 * KIB},
    {"status": 204, "body": b""},
    {"status": 200, "content_type": "text/event-stream", "body": "data: {}\n\ndata: [DONE]\n\n"},
    {"code": "rate_limit_exceeded", "retry_after": "0"},
    {"code": "insufficient_funds", "param": "model"},
    {"code": "internal_error", "message": "\u00e9\u2028 no"},
    {"status": 500, "size": 63 * KIB},
    {"status": 503, "size": 70 * KIB},
    {"status": 500, "size": 300 * KIB},
    {"status": 502, "body": "<html>no</html>", "content_type": "text/html"},
    {"status": 400, "body": b""},
    {"status": 418, "body": b'{"error": {"mess'},
    {"status": 401, "headers": {"www-authenticate": "Basic", "x-request-id": None}},
    {"status": 429, "headers": {"x-ratelimit-limit-rpm": "many", "retry-after": "soon"}},
    {"status": 404, "content_type": "text/event-stream", "body": "data: no\n\n"},
]
FAULTS: list[dict[str, Any]] = [
    {},
    {"fault": "truncate"},
    {"fault": "stall"},
]
NO_ANSWERS: list[dict[str, Any]] = [
    {"fault": "drop"},
    {"fault": "garbage"},
    {"fault": "silence"},
    {"delay_s": 0.05},
]
REDIRECTS: list[dict[str, Any]] = [
    {"redirect": "/v1/models"},
    {"redirect": "/v1/models", "status": 303},
    {"redirect": "http://[", "status": 302},
]

_with_content = st.builds(
    lambda content, form, fault: {**content, **form, **fault},
    st.sampled_from(CONTENTS),
    st.sampled_from(FORMS),
    st.sampled_from([{}, {}, {}, *FAULTS]),
).filter(lambda answer: not (answer.get("fault") and answer.get("body") == b""))
_answer = st.one_of(
    _with_content,
    _with_content,
    st.sampled_from(NO_ANSWERS),
    st.sampled_from(REDIRECTS),
)


def _can_be(scenario: Scenario) -> bool:
    if scenario.cancel_s is None:
        return True
    # The one thing that a caller may notice: a failed answer waits for its body's beginning.
    waits = any(
        answer.get("fault") == "stall" and ("code" in answer or answer.get("status", 0) >= FAILED)
        for answer in scenario.answers
    )
    is_async = scenario.client.endswith(("asyncio", "aiohttp"))
    # What comes by itself would be in a race with the caller's patience.
    return is_async and hangs(scenario.answers[0]) and not waits


SCENARIOS = st.builds(
    Scenario,
    client=st.sampled_from([*PLAIN, *PLAIN, *SDKS]),
    method=st.sampled_from(METHODS),
    body=st.sampled_from(BODIES),
    answers=st.lists(_answer, min_size=1, max_size=3),
    follow=st.booleans(),
    stream=st.booleans(),
    read=st.sampled_from(READS),
    close=st.sampled_from(CLOSES),
    cancel_s=st.sampled_from([None, None, None, CANCEL_S]),
).filter(_can_be)


def of_each_value() -> Iterator[Scenario]:
    """A few scenarios, the same each time, in which each value of each parameter is."""
    success = {"status": 200, "json": {}}
    # Begun at different places, so that those of one length are not always the same pairs.
    parts = (PLAIN, METHODS, BODIES[1:] + BODIES[:1], READS, CLOSES, (True, True, False), FORMS)
    taken = zip(*map(cycle, parts), strict=False)
    for answer in (*CONTENTS, *NO_ANSWERS, *REDIRECTS):
        client, method, body, read, close, stream, form = next(taken)
        answers = [answer | form if answer in CONTENTS else answer, success]
        yield Scenario(client, method, body, answers, answer in REDIRECTS, stream, read, close)
    for client, (fault, content) in zip(PLAIN, product(FAULTS[1:], CONTENTS[1:9:7]), strict=False):
        yield Scenario(client, answers=[content | fault], stream=True)
    for client, stream in zip(SDKS, cycle((True, False)), strict=False):
        yield Scenario(client, answers=[{"code": "model_overloaded"}, {}], stream=stream)
    for client in ("httpx-asyncio", "aiohttp", "openai-asyncio"):
        yield Scenario(client, answers=[{"fault": "silence"}], cancel_s=CANCEL_S)
