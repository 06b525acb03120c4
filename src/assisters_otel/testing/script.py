"""The script of a fake API: what it will answer, and what it was asked."""

from __future__ import annotations

from collections import deque
from json import dumps
from threading import Lock
from typing import TYPE_CHECKING, Final

from assisters_otel import catalog
from assisters_otel.testing import script_arguments
from assisters_otel.testing.answers import Answer, envelope
from assisters_otel.testing.usage import sent_usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from assisters_otel.testing.answers import Fault, Received, SampleBody
    from assisters_otel.testing.usage import SentUsage

_FIRST_ERROR: Final = 400


class Script:
    """Answers still to give and requests met, for use from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._answers: deque[Answer] = deque()
        self._requests: list[Received] = []
        self._usage: list[SentUsage] = []
        self.before: Callable[[Received], object] = lambda _: None
        """Called with each request before it takes its answer, so that it can still be given."""
        self.left: Callable[[Received], object] = lambda _: None
        """Called with each request whose client has gone away before it was answered."""

    def answers(  # noqa: C901, PLR0913 - one word for each thing an HTTP answer can do
        self,
        *codes: str,
        status: int | None = None,
        code: str | None = None,
        type: str | None = None,  # noqa: A002 - the envelope's own word
        message: str | None = None,
        param: str | None = None,
        body: bytes | str | Sequence[bytes] | None = None,
        json: object = None,
        content_type: str | None = None,
        headers: Mapping[str, str | float | None] | None = None,
        retry_after: str | float | None = None,
        request_id: str | None = None,
        delay_s: float = 0,
        chunked: bool = False,
        chunk_delay_s: float = 0,
        gzip: bool = False,
        size: int = 0,
        redirect: str | None = None,
        in_stream: str | None = None,
        fault: Fault | None = None,
        times: int = 1,
    ) -> None:
        """Append answers to the script; each request takes one, in order.

        Once the script is empty every documented endpoint succeeds. Without any
        argument the answer is a success; everything else can be combined.

        Args:
            codes: One answer for each: a documented error code, or ``"ok"``.
            status: The HTTP status. Default: the code's, 307 with *redirect*, else
                the endpoint's own.
            code: An error code, documented or not; if not, *status* is needed.
            type: The envelope's type. Default: the documented one for code or status.
            message: The envelope's message.
            param: The envelope's param. Default: what ``invalid_model``,
                ``missing_parameter`` and ``invalid_parameter`` are about, else absent.
            body: The body as it is, in place of envelope or sample; a sequence of bytes
                is sent in just these chunks.
            json: The same as a JSON value; for a bare null say ``body="null"``.
            content_type: Default: JSON, or the endpoint's own.
            headers: Further headers; the value None takes a documented one away.
            retry_after: The header, on any status; beside error codes not on an ``"ok"``.
                Default: 1 on a 429.
            request_id: X-Request-ID. Default: a new one, ``req_…``.
            delay_s: Seconds before the first byte.
            chunked: Several chunks without a content-length: one for each event of an
                event stream (which always is chunked), else four.
            chunk_delay_s: Seconds between two chunks; above 0 it implies *chunked*.
            gzip: Content-Encoding: gzip.
            size: Pad the envelope's message, or the body by blanks, to so many bytes.
            redirect: A Location, absolute or not. Without *body* the body is empty.
            in_stream: An error code, documented or not: after half of its events an event
                stream has an error event with that code, and ends. With *type*, *message*
                and *param*. An answer that is none is as it would be.
            fault: ``"drop"`` closes the connection without an answer. ``"garbage"``
                writes *body*, or bytes that are no HTTP, in place of an answer and
                closes. ``"silence"`` never answers. ``"stall"`` sends headers and half
                the body, then nothing. ``"truncate"`` sends the same, then closes.
                ``"unfinished"`` ends an event stream regularly after half of its events.
            times: How often all this is repeated.

        Raises:
            ValueError: The arguments contradict each other, or one is of the wrong kind; it says
                what to write.
        """
        script_arguments.check_texts(
            codes=codes,
            others={
                "code": code,
                "type": type,
                "message": message,
                "param": param,
                "content_type": content_type,
                "request_id": request_id,
                "redirect": redirect,
                "in_stream": in_stream,
            },
        )
        script_arguments.check_whole(
            "status", status, script_arguments.FIRST_FINAL, script_arguments.LAST
        )
        script_arguments.check_whole("size", size, 0)
        script_arguments.check_whole("times", times, 1)
        script_arguments.check_seconds("delay_s", delay_s, "fault='silence' for no answer at all")
        script_arguments.check_seconds(
            "chunk_delay_s", chunk_delay_s, "fault='stall' for no more of it"
        )
        if not isinstance(retry_after, str):
            script_arguments.check_seconds(
                "retry_after", retry_after, "text for any other: retry_after='soon'"
            )
        script_arguments.check_flags({"chunked": chunked, "gzip": gzip})
        script_arguments.check_body(body, json)
        script_arguments.check_headers(headers)
        own = body is not None or json is not None or redirect is not None
        worded = not (type is None and message is None and param is None)
        extra = {
            name.lower(): None if value is None else str(value)
            for name, value in (headers or {}).items()
        }
        odd = next((name for name in codes if name != "ok" and not catalog.find(name)), None)
        wished = [None if name == "ok" else name for name in codes] or [code]
        rows = [catalog.find(name) if name else None for name in wished]
        failing = (status or 0) >= _FIRST_ERROR or (status is None and all(rows))
        failing = failing or in_stream is not None
        for wrong, instead in (
            (odd is not None, f"{odd!r} is not documented: {script_arguments.instead_of(odd)}"),
            (codes and code is not None, "write a list of codes or one as code=, not both"),
            (
                code and not status and not any(rows),
                f"code={code!r} is not documented: {script_arguments.near(code)}add status=",
            ),
            (code and not failing, f"code={code!r} is an error: write a status >= 400 with it"),
            (body is not None and json is not None, "write body= or json=, not both"),
            (worded and own, "type=, message= and param= make an envelope: write no other body"),
            (worded and not failing, "type=, message= and param= need a code, or a status >= 400"),
            (
                {"content-length", "transfer-encoding"} & extra.keys(),
                "the server measures the body: write fault='truncate', chunked=True or 'garbage'",
            ),
            (
                fault not in (None, *script_arguments.FAULTS),
                f"write one of the faults {', '.join(script_arguments.FAULTS)}",
            ),
            (
                in_stream is not None and (any(rows) or own or fault),
                "in_stream= fails after a success: write no other code, body or fault with it",
            ),
        ):
            if wrong:
                raise ValueError(instead)

        for name, value in (("location", redirect), ("x-request-id", request_id)):
            if value is not None:
                extra[name] = str(value)
        # answers("rate_limit_exceeded", "ok", retry_after=2) asks for one pause.
        of_success = dict(extra)
        if retry_after is not None:
            extra["retry-after"] = str(retry_after)
        script_arguments.check_sent({**extra, "content-type": content_type})
        moved = None
        if redirect is not None:
            moved, body = 307, body or b""
        if json is not None:
            body = dumps(json)
        parts = None
        if not (body is None or isinstance(body, str | bytes)):
            parts = tuple(body)
            body = b"".join(parts)
        event = None
        if in_stream is not None:
            event = envelope(
                script_arguments.FIRST_FINAL,
                in_stream,
                type_=type,
                message=message,
                param=param,
                size=size,
            )
        batch = []
        for wish, row in zip(wished, rows, strict=True):
            met = status or (row.status if row else moved)
            raw = body.encode() if isinstance(body, str) else body
            if raw is None and met is not None and met >= _FIRST_ERROR:
                raw = envelope(met, wish, type_=type, message=message, param=param, size=size)
            batch.append(
                Answer(
                    status=met,
                    body=raw,
                    content_type=content_type,
                    headers=extra if row or failing or not any(rows) else of_success,
                    delay_s=delay_s,
                    chunked=chunked or chunk_delay_s > 0,
                    chunk_delay_s=chunk_delay_s,
                    gzip=gzip,
                    size=size,
                    fault=fault,
                    parts=parts,
                    event=event,
                    code=wish,
                )
            )
        with self._lock:
            self._answers.extend(batch * times)

    def take(self, received: Received) -> Answer:
        """Note a request and give its answer: the script's next, or a plain success."""
        self.before(received)
        with self._lock:
            self._requests.append(received)
            return self._answers.popleft() if self._answers else Answer()

    def requests(self) -> list[Received]:
        """Return the requests so far, in a list of the caller's own."""
        with self._lock:
            return list(self._requests)

    def book(self, received: Received, content: SampleBody) -> None:
        """Keep the usage that an answer reports, which is about to be sent to its end."""
        usage = sent_usage(received, content)
        if usage is not None:
            with self._lock:
                self._usage.append(usage)

    def usage(self) -> list[SentUsage]:
        """Return the usage that was sent so far, in a list of the caller's own."""
        with self._lock:
            return list(self._usage)

    def reset(self) -> None:
        """Forget the answers still to give, the requests, and the usage."""
        with self._lock:
            self._answers.clear()
            self._requests.clear()
            self._usage.clear()
