"""Runs an app under a runtime, in a process group of its own, and counts what has arrived of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import httpx

from callers import TLS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from assisters_otel.testing import FakeApi
    from otlp import Collector, Span

HERE = Path(__file__).parent
INSTRUMENTORS = entry_points(group="opentelemetry_instrumentor").names
OTHERS = ",".join(sorted(INSTRUMENTORS - {"assisters"}))
PROGRAMS = ("uwsgi",)  # they are no modules
SLACK_S = 15  # on a busy machine everything takes longer


class Told(NamedTuple):
    """What has become of the attempts that an app has made.

    Attributes:
        made: How many the API has answered.
        spans: How many spans of them have arrived.
        counted: How many of them the metrics that have arrived count.
    """

    made: int
    spans: int
    counted: int


def told(api: FakeApi, collector: Collector) -> Told:
    counts = [p.count for p in collector.points("assisters.client.request.duration")]
    return Told(len(api.requests), len({s.span_id for s in attempts(collector)}), sum(counts))


def attempts(collector: Collector) -> list[Span]:
    """The spans of attempts; FastAPI makes some of its own."""
    clients = [span for span in collector.spans() if span.kind == "CLIENT"]
    return [s for s in clients if s.attributes.keys() & {"http.method", "http.request.method"}]


def environment(api: FakeApi, collector: Collector, mode: str, **more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    if mode == "zero-code":
        clean |= {
            "ASSISTERS_OTEL_HOSTS": urlsplit(api.url).netloc,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": OTHERS,
        }
    ours = {
        "API": api.url,
        "MODE": mode,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
    }
    return {**clean, **ours, **more}


def command(mode: str, *words: str) -> list[str]:
    """``python -m`` something, under ``opentelemetry-instrument`` where that is the mode."""
    python = [sys.executable, "-m"]
    if words[0] in PROGRAMS:
        python, words = [beside(words[0])], words[1:]
    if mode == "zero-code":
        python = [beside("opentelemetry-instrument"), *python]
    return [*python, *words]


def beside(program: str) -> str:
    """The path of a program in this environment."""
    return str(Path(sys.executable).with_name(program))


class App:
    """A running app.

    Attributes:
        process: The one that was started. It may have others.
        code: Its exit code, once it has ended.
        exit_s: How long it took to end.
        said: What it wrote, once it has ended.
    """

    def __init__(self, process: subprocess.Popen[str], output: Path) -> None:
        self.process = process
        self.code: int | None = None
        self.exit_s = 0.0
        self._output = output

    @property
    def said(self) -> str:
        return self._output.read_text(errors="replace")

    def catches(self, signum: signal.Signals) -> bool:
        """Whether its first process has a handler for a signal by now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        return bool(caught >> (signum - 1) & 1)

    def end(
        self, by: signal.Signals | None = None, *, group: bool = False, within_s: float = 90
    ) -> None:
        """Wait for the end of it, after a signal if there is to be one.

        Args:
            by: The signal.
            group: Whether all of its processes get it, as they do of Ctrl-C in a terminal.
            within_s: How long to wait, in seconds.
        """
        if group and by is not None:
            os.killpg(self.process.pid, by)
        elif by is not None:
            self.process.send_signal(by)
        started_s = time.monotonic()
        self.code = self.process.wait(within_s)
        self.exit_s = time.monotonic() - started_s


@contextmanager
def running(
    words: list[str],
    env: dict[str, str],
    folder: Path,
    stdin: int = subprocess.DEVNULL,
    **options: object,
) -> Iterator[App]:
    """Start an app; what is left of its process group at the end is killed."""
    output = folder / "output"
    with output.open("w") as written:
        process = subprocess.Popen(
            words,
            env=env,
            cwd=folder,
            stdin=stdin,
            stdout=written,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            **options,  # type: ignore[call-overload]
        )
    app = App(process, output)
    try:
        yield app
    finally:
        with suppress(ProcessLookupError):  # all of it has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(is_so: Callable[[], object], app: App, within_s: float = 60) -> None:
    until_s = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < until_s, app.said
        assert app.process.poll() is None or is_so(), app.said
        time.sleep(0.05)


@contextmanager
def listening() -> Iterator[socket.socket]:
    """A socket that a server inherits."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        listener.set_inheritable(True)
        yield listener


def visit(listener: socket.socket, workers: int = 1, times: int = 4) -> None:
    """Send requests to a site until each of its workers has answered some."""
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    answered: set[str] = set()
    until_s = time.monotonic() + 60
    sent = 0
    while sent < times or (len(answered) < workers and time.monotonic() < until_s):
        try:
            answered.add(httpx.get(address, timeout=60, trust_env=False, verify=TLS).text)
        except httpx.TransportError:  # of a worker that has just ended
            assert time.monotonic() < until_s
            time.sleep(0.1)
            continue
        sent += 1
    assert len(answered) >= workers
