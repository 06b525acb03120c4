"""A process that plays a wrong variable in a fork of its own for each value, as cheaply as can be.

Run as a script, with ``warm`` or ``cold`` and the API's URL. Warm it imports all before it forks;
cold, all but OpenTelemetry and this library, whose import is what some variables break. From its
standard input it reads a line of JSON for each variable, and answers with a line; see `Row`.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import ssl
import sys
import tempfile
import time
from contextlib import redirect_stdout, suppress
from functools import cache, partial
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

SIDE_BY_SIDE = 2
LIMIT_S = 60.0
OURS = ("assisters_otel", "opentelemetry")
CLIENTS = ("aiohttp", "assisters", "httpx", "httpx2", "openai", "requests")
READING = (
    "assisters_otel.startup", "assisters_otel.explanation.explain", "assisters_otel.cli.app",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
)  # fmt: skip
"""What stands for all that is imported before `init` is called."""


class Row(NamedTuple):
    """What one value of a variable did.

    Attributes:
        raised: What reached the app, or None.
        lines: What was logged from WARNING on, as ``[logger, text]``.
        left: What `os.environ` differs in afterwards, or None.
    """

    raised: str | None
    lines: list[list[str]]
    left: str | None


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.name, record.getMessage()))


TLS = ssl.create_default_context()
"""For every client: to make it takes as long as the request, which is in plain HTTP."""


@cache
def _command() -> Any:
    """Return the command; to make it of its functions takes a fifth of a row."""
    app: Any = importlib.import_module("assisters_otel.cli.app")
    return importlib.import_module("typer.main").get_command(app.app)


def _prepare() -> None:
    """Do once what each row would do again, and what no variable has a part in."""
    _command()
    patterns: Any = importlib.import_module("assisters_otel.api.patterns")
    for one in gc.get_objects():
        if type(one) is patterns._Pattern:
            one.pattern  # noqa: B018 - which compiles it
    instrumentation: Any = importlib.import_module("assisters_otel.instrumentation")
    instrumentation.version = cache(metadata.version)
    for client in CLIENTS:
        with suppress(metadata.PackageNotFoundError):
            instrumentation.version(client)


def play(service_name: str, url: str) -> None:
    """Do what an app does: import us, switch on, send what fails, ask why, leave."""
    import assisters_otel

    os.environ["OTEL_SDK_DISABLED"], before = "true", os.environ.get("OTEL_SDK_DISABLED")
    inert = assisters_otel.init(service_name)
    assert not inert.status().active
    inert.shutdown()
    del os.environ["OTEL_SDK_DISABLED"]
    if before is not None:
        os.environ["OTEL_SDK_DISABLED"] = before

    import httpx

    with assisters_otel.init(service_name, hosts=[url]) as telemetry:
        with httpx.Client(trust_env=False, verify=TLS) as client:
            response = client.get(f"{url}/models")
        assert response.status_code == 429, response
        assert telemetry.status().attempts == 1
        assert assisters_otel.explain(response).code == "rate_limit_exceeded"
        telemetry.flush(20)
    with redirect_stdout(StringIO()), suppress(SystemExit):
        _command()(["errors", "--json"])


def _row(variables: dict[str, str], service_name: str, url: str) -> Row:
    os.environ.update(variables)
    heard = _Lines()
    logging.getLogger().addHandler(heard)
    before, kind = dict(os.environ), type(os.environ)
    raised = None
    try:
        play(service_name, url)
    except BaseException as error:  # noqa: BLE001 - what the app would have got
        raised = f"{type(error).__name__}: {error}"
    changed = sorted({*before.items()} ^ {*os.environ.items()})
    left = None if type(os.environ) is kind and not changed else f"{changed} {type(os.environ)}"
    return Row(raised, [list(line) for line in heard.lines], left)


def _forked(work: Callable[[], object], path: Path) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            path.write_text(json.dumps(work()), encoding="ascii")
        finally:
            os._exit(0)
    return pid


def _rows(asked: list[Any], folder: Path) -> list[Any]:
    waiting, running = list(enumerate(asked)), {}
    while waiting or running:
        while waiting and len(running) < SIDE_BY_SIDE:
            number, told = waiting.pop(0)
            pid = _forked(partial(_row, *told), folder / str(number))
            running[pid] = time.monotonic() + LIMIT_S
        for pid, until_s in list(running.items()):
            if time.monotonic() > until_s:
                os.kill(pid, 9)
            if os.waitpid(pid, os.WNOHANG)[0]:
                del running[pid]
        time.sleep(0.002)
    texts = [(folder / str(number)).read_text(encoding="ascii") for number in range(len(asked))]
    return [json.loads(text) if text else Row("no end", [], None) for text in texts]


def _warm_up(url: str, folder: Path, *, but: tuple[str, ...]) -> None:
    """Import what a row does, but for some, so that no row has to."""

    def imported() -> list[str]:
        _row({"OTEL_EXPORTER_OTLP_ENDPOINT": url}, "x", url)  # which refuses it
        return list(sys.modules)

    os.waitpid(_forked(imported, folder / "imported"), 0)
    for name in json.loads((folder / "imported").read_text(encoding="ascii")):
        if name.partition(".")[0] not in but:
            with suppress(ImportError):  # some are put there under names of their own
                importlib.import_module(name)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _warm_up(sys.argv[2], folder, but=OURS if sys.argv[1] == "cold" else ())
        importlib.import_module("opentelemetry.util._importlib_metadata").entry_points()
        if sys.argv[1] == "warm":
            _prepare()
        gc.collect()
        gc.freeze()  # a collection in a fork would copy all of it
        for line in sys.stdin:
            print(json.dumps(_rows(json.loads(line), folder)), flush=True)  # noqa: T201 - its answer


if __name__ == "__main__":
    main()
