"""One scenario: what an app sends by which client, what it is answered, how it reads and leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

KIB = 1024
FAILED = 400
HTTPX = ("httpx", "httpx2", "httpx-asyncio", "httpx2-asyncio", "httpx-trio", "httpx2-trio")
PLAIN = (*HTTPX, "requests", "aiohttp")
SDKS = ("openai", "openai-asyncio", "openai-aiohttp", "assisters")
TIMEOUT_S = 0.25


@dataclass(frozen=True)
class Scenario:
    """One.

    Attributes:
        client: One of `PLAIN` or `SDKS`.
        method: The HTTP method; an SDK has its own.
        body: ``none``, ``json``, ``bytes``, ``generator``, ``multipart`` or ``large``.
        answers: What the fake API is told to answer, one after the other.
        follow: Whether redirects are followed.
        stream: Whether the answer is asked for as a stream.
        read: How that is read.
        close: ``context``, ``twice`` or ``dropped``.
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
    return scenario.client.endswith(("asyncio", "aiohttp")) and not waits


SCENARIOS = st.builds(
    Scenario,
    client=st.sampled_from([*PLAIN, *PLAIN, *SDKS]),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"]),
    body=st.sampled_from(["none", "json", "bytes", "generator", "multipart", "large"]),
    answers=st.lists(_answer, min_size=1, max_size=3),
    follow=st.booleans(),
    stream=st.booleans(),
    read=st.sampled_from(["all", "raw", "bytes", "lines", "text", "first", "none"]),
    close=st.sampled_from(["context", "twice", "dropped"]),
    cancel_s=st.sampled_from([None, None, None, 0.1]),
).filter(_can_be)
