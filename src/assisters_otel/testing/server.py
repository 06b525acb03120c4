"""`FakeApi`: a real HTTP server on loopback that behaves like the Assisters API."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import Future
from functools import wraps
from threading import Thread
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, TypeVar

from starlette.routing import Route, Router
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from assisters_otel.testing import sample_bodies
from assisters_otel.testing.endpoint_app import EndpointApp
from assisters_otel.testing.response_writer import CONNECTION
from assisters_otel.testing.script import Script

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from typing_extensions import Self

    from assisters_otel.testing.answers import Received
    from assisters_otel.testing.usage import SentUsage

P = ParamSpec("P")
T = TypeVar("T")

# With a small backlog fifty connections at once are reset (`http.server` has 5).
_BACKLOG: Final = 2048
# Longer than any test, so that it is the client who ends an idle connection.
_KEEP_ALIVE_S: Final = 600
_LAST_PORT: Final = 65535


def _of_script(method: Callable[Concatenate[Script, P], T]) -> Callable[Concatenate[FakeApi, P], T]:
    """Return a method of the script as one of the API, with its arguments and documentation."""

    @wraps(method)
    def forwarded(api: FakeApi, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return method(api._script, *args, **kwargs)  # noqa: SLF001 - as a method of it would

    return forwarded


class FakeApi:
    """The Assisters API on loopback, for tests and demonstrations.

    ::

        with FakeApi() as api:
            api.answers("rate_limit_exceeded", "ok")
            client = openai.OpenAI(base_url=api.url, api_key="ask_test")

    It speaks HTTP/1.1 with keep-alive, in a daemon thread; it prints nothing and
    touches neither signals nor logging. Without a script every documented endpoint
    succeeds, and every other path is a 404 with an envelope. Every answer has the
    documented headers.

    Args:
        port: Fixed, or 0 for one that is free. It stays the same when a stopped
            server is started again.

    Raises:
        ValueError: The port is none.

    Attributes:
        host: Always ``"127.0.0.1"``.
        app: The same as an ASGI app, started or not, for a server of your own (HTTP/2,
            TLS). There ``drop``, ``truncate`` and ``garbage`` are an exception of the app.
        connections: TCP connections accepted so far.
    """

    host: Final = "127.0.0.1"

    def __init__(self, *, port: int = 0) -> None:
        if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= _LAST_PORT:
            raise ValueError(
                f"{port!r} is no port: write port=0 for one that is free, or 1 to {_LAST_PORT}"
            )
        self._script = Script()
        self.connections = 0
        self.app: Router = Router(
            [
                Route(f"/v1{path}", EndpointApp(self._script, sample, method))
                for method, path, sample in sample_bodies.ENDPOINTS
            ],
            redirect_slashes=False,
            default=EndpointApp(self._script, sample_bodies.unknown_path),
        )
        self._port = port
        self._running: tuple[Thread, Callable[[], object]] | None = None

    answers = _of_script(Script.answers)
    reset = _of_script(Script.reset)

    def __repr__(self) -> str:
        where = f"on {self.url}" if self._running is not None else "not started"
        return f"<FakeApi {where}>"

    @property
    def port(self) -> int:
        """The port; raises RuntimeError before the first start, unless it is fixed."""
        if not self._port:
            raise RuntimeError("the port is not known yet: call start(), or write FakeApi(port=…)")
        return self._port

    @property
    def url(self) -> str:
        """The base URL, for example ``http://127.0.0.1:49152/v1``."""
        return f"http://{self.host}:{self.port}/v1"

    @property
    def requests(self) -> list[Received]:
        """The requests so far, in the order in which they took their answers; a copy."""
        return self._script.requests()

    @property
    def usage(self) -> list[SentUsage]:
        """The usage in the answers that were sent to their end, one for each; a copy.

        Its sums are what a client may count: an answer that was broken off or cancelled has told
        it nothing.
        """
        return self._script.usage()

    def start(self) -> Self:
        """Listen.

        Raises:
            OSError: The fixed port is taken.
            RuntimeError: It is started already.
        """
        if self._running is not None:
            raise RuntimeError("this FakeApi is started already")
        listener = _listen(self.host, self._port)
        self._port = listener.getsockname()[1]
        config = _config(self.app)
        ready: Future[Callable[[], object]] = Future()
        thread = Thread(
            target=lambda: _run(self._serve(config, listener, ready)),
            name="assisters-fake-api",
            daemon=True,
        )
        thread.start()
        self._running = thread, ready.result()
        return self

    def stop(self) -> None:
        """Close the socket and all connections, at once; again it does nothing."""
        if self._running is not None:
            thread, end = self._running
            end()
            thread.join()
            self._running = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _serve(
        self, config: Config, listener: socket.socket, ready: Future[Callable[[], object]]
    ) -> None:
        # uvicorn's protocol without its `Server`, which polls ten times a second and so
        # takes 0.2 s to stop.
        state = ServerState()

        def connect() -> H11Protocol:
            connection = H11Protocol(config, state, {})
            # Not `Config(access_log=False)`: that takes the handlers of an app's own logger.
            connection.access_log = False
            connection.app_state[CONNECTION] = connection
            self.connections += 1
            return connection

        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        server = await loop.create_server(connect, sock=listener, backlog=_BACKLOG)
        ready.set_result(lambda: loop.call_soon_threadsafe(over.set))
        await over.wait()
        # asyncio never closes a connection that it has accepted but not yet handed over when
        # its server closes. Proof: test_a_client_that_connects_at_the_end_leaves_no_socket.
        loop.remove_reader(listener)
        await _end_connections(state, quiet=1)
        server.close()
        await _end_connections(state, quiet=_QUIET_TURNS)
        await server.wait_closed()


def on_requests(
    api: FakeApi, before: Callable[[Received], object], left: Callable[[Received], object]
) -> None:
    """Call functions for each request to *api*, in the server's thread.

    Args:
        api: The server.
        before: Called before the request gets its answer. It may call `FakeApi.answers`, so an
            answer can depend on the requests so far and on the time.
        left: Called if the client has closed the connection before it got an answer.
    """
    api._script.before, api._script.left = before, left  # noqa: SLF001 - as a method of it would


def _run(server: Coroutine[None, None, None]) -> None:
    # Not `asyncio.run`: the loop of an app's own policy may have no readers to remove.
    loop = asyncio.SelectorEventLoop()
    try:
        loop.run_until_complete(server)
    finally:
        loop.close()


async def _end_connections(state: ServerState, quiet: int) -> None:
    """Abort what is open, until *quiet* turns of the loop have found nothing."""
    # A handler that waits sees its client go and returns. None needs to be cancelled.
    idle = 0
    while True:
        idle = 0 if state.connections or len(asyncio.all_tasks()) > 1 else idle + 1
        if idle >= quiet:
            return
        for connection in state.connections:
            connection.transport.abort()
        await asyncio.sleep(0)


def _listen(host: str, port: int) -> socket.socket:
    # asyncio switches Nagle's algorithm off only where the protocol is named, which
    # `socket.create_server` does not do: each body would wait 40 ms behind its headers.
    # Proof: test_a_body_does_not_wait_behind_its_headers.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _config(app: Router) -> Config:
    config = Config(
        app,
        interface="asgi3",
        http=H11Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
    config.load()
    return config


# Turns of the loop that a connection may take from its last callback to its closed socket.
_QUIET_TURNS: Final = 5
