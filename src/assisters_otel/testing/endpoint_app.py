"""The ASGI app of one path of the fake API: a request in, the script's answer out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect, Request

from assisters_otel.testing import sample_bodies
from assisters_otel.testing.answers import Received
from assisters_otel.testing.response_writer import ResponseWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from assisters_otel.testing.answers import SampleBody
    from assisters_otel.testing.script import Script


@dataclass(frozen=True)
class EndpointApp:
    """An ASGI app for one path. It keeps the request, and sends the script's answer to it.

    Attributes:
        script: The source of the answers.
        sample: The content of an answer that has none of its own.
        method: The only one that *sample* is for, or None for all.
    """

    script: Script
    sample: Callable[[Received], SampleBody]
    method: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and book the usage that the answer reports."""
        began_s = time.perf_counter()
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        received = Received(
            method=request.method,
            path=scope["path"],
            query=scope["query_string"].decode("latin-1"),
            headers={name: ", ".join(request.headers.getlist(name)) for name in request.headers},
            body=body,
            at_s=time.monotonic(),
        )
        answer = self.script.take(received)
        documented = self.method in (None, received.method)
        sample = self.sample if documented else sample_bodies.wrong_method
        content = answer.with_defaults(sample(received))
        book = partial(self.script.book, received, content)
        writer = ResponseWriter(scope, receive, send, book)
        if not await writer.put(answer, content, began_s):
            self.script.left(received)
