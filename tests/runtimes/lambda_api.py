"""A Runtime API of AWS Lambda on loopback, which freezes the runtime as Lambda does.

It stops the runtime's process when that asks for the next invocation, and lets it go on with it. So
what the process has not exported by then is exported in a later invocation or never.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT = "/2018-06-01/runtime"


class Ended(NamedTuple):
    """One invocation as its caller and Lambda see it.

    Attributes:
        status: ``response`` or ``error``.
        body: What the caller gets.
        answered_s: How long that took.
        held_s: How much longer it took until the runtime asked for the next invocation.
    """

    status: str
    body: Any
    answered_s: float
    held_s: float


class RuntimeApi:
    """Hands out invocations, one after the other."""

    def __init__(self) -> None:
        self.pid: int | None = None
        self.failed: list[Any] = []
        self._id = ""
        self._events: queue.Queue[tuple[str, float] | None] = queue.Queue()
        self._answers: queue.Queue[tuple[str, Any]] = queue.Queue()
        self._asked = threading.Semaphore(0)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._events.put(None)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def invoke(
        self, event: object = None, *, request_id: str = "one", timeout_s: float = 30
    ) -> Ended:
        """Invoke the function, and wait until its process is frozen again."""
        if not self._asked.acquire(timeout=60):
            raise AssertionError(f"the runtime does not ask for an invocation; {self.failed}")
        self._id = request_id
        started_s = time.monotonic()
        self._events.put((json.dumps(event), time.time() + timeout_s))
        self._signal(signal.SIGCONT)
        status, body = self._answers.get(timeout=60)
        answered_s = time.monotonic()
        if not self._asked.acquire(timeout=60):
            raise AssertionError("the runtime does not end its invocation")
        frozen_s = time.monotonic()
        self._asked.release()
        return Ended(status, body, answered_s - started_s, frozen_s - answered_s)

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _handler(api: RuntimeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """Wait for the next invocation, in which the process is frozen."""
            assert self.path == f"{ROOT}/invocation/next"
            api._signal(signal.SIGSTOP)
            api._asked.release()
            event = api._events.get()
            if event is None:
                self.close_connection = True
                return
            body, until_s = event
            self._answer(
                200,
                body.encode(),
                {
                    "Lambda-Runtime-Aws-Request-Id": api._id,
                    "Lambda-Runtime-Deadline-Ms": str(int(until_s * 1000)),
                    "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu:1:function:f",
                    "Lambda-Runtime-Trace-Id": "Root=1-5759e988-bd862e3fe1be46a994272793",
                },
            )

        def do_POST(self) -> None:
            body = json.loads(_body(self) or b"null")
            if self.path == f"{ROOT}/init/error":
                api.failed.append(body)
            else:
                api._answers.put((self.path.rpartition("/")[2], body))
            self._answer(202, b"{}")

        def _answer(self, status: int, body: bytes, more: dict[str, str] | None = None) -> None:
            self.send_response(status)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
            for name, value in {**headers, **(more or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("Transfer-Encoding") != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
    read = b""
    while size := int(handler.rfile.readline(), 16):
        read += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return read
