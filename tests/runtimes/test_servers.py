"""Servers that end: as many spans arrive, and are counted, as attempts were made."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest
from apps import (
    HERE,
    SLACK_S,
    Told,
    command,
    environment,
    listening,
    running,
    told,
    visit,
    wait_until,
)

from otlp import Collector
from sizes import SIZE, WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assisters_otel.testing import FakeApi

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="these signals are POSIX's")

UVICORN = ("uvicorn", "--fd={fd}", "--log-level=warning", "site_app:asgi")
GUNICORN = ("gunicorn", "--bind=fd://{fd}", "--log-level=warning")
UWSGI = (
    *("uwsgi", "--http-socket=fd://{fd}", f"--virtualenv={sys.prefix}"),
    *("--module=site_app:wsgi", "--need-app", "--die-on-term"),
)
HYPERCORN = ("hypercorn", "--bind=fd://{fd}", "--log-level=warning", "site_app:asgi")
PROGRAM = ("programmatic_uvicorn", "{fd}")


class Server(NamedTuple):
    """A server.

    Attributes:
        words: Its command.
        workers: How many of them answer.
        recycled: What makes a worker end by itself after some requests.
        group: Whether all of its processes get SIGINT, as of Ctrl-C in a terminal. gunicorn's
            master sends its workers SIGQUIT for it: some hang or complain if they get both, without
            us too, and uvicorn's worker does not listen to that one. uWSGI's master sends them
            SIGINT: a second one ends a worker at once, without us too.
    """

    words: tuple[str, ...]
    workers: int = 1
    recycled: tuple[str, ...] = ()
    group: bool = True


def uwsgi(*options: str, workers: int = 1) -> Server:
    recycled = () if "reload" in options[-1] else ("--max-requests=4",)
    return Server((*UWSGI, "--master", *options), workers, recycled, group=False)


SERVERS = {
    "uvicorn": Server(UVICORN, recycled=("--limit-max-requests=4",)),
    # On a busy machine a worker takes longer to start than it has by default.
    "uvicorn --workers": Server(
        (*UVICORN, "--workers=2", "--timeout-worker-healthcheck=60"), 2, ("--limit-max-requests=4",)
    ),
    "uvicorn --reload": Server((*UVICORN, "--reload")),
    "uvicorn --lifespan off": Server((*UVICORN, "--lifespan=off")),
    "uvicorn.Server": Server(PROGRAM),
    "hypercorn": Server(HYPERCORN, recycled=("--max-requests=4",)),
    "hypercorn --workers": Server((*HYPERCORN, "--workers=2"), 2),
    "hypercorn on trio": Server((*HYPERCORN, "--worker-class=trio")),
    "gunicorn": Server((*GUNICORN, "site_app:wsgi"), recycled=("--max-requests=4",), group=False),
    "gunicorn --preload": Server(
        (*GUNICORN, "--workers=2", "--preload", "site_app:wsgi"),
        2,
        ("--max-requests=4",),
        group=False,
    ),
    "gunicorn gthread": Server(
        (*GUNICORN, "--worker-class=gthread", "--threads=4", "site_app:wsgi"),
        recycled=("--max-requests=4",),
        group=False,
    ),
    "gunicorn asgi": Server(
        (*GUNICORN, "--worker-class=asgi", "site_app:asgi"),
        recycled=("--max-requests=4",),
        group=False,
    ),
    "gunicorn uvicorn_worker": Server(
        (*GUNICORN, "--worker-class=uvicorn_worker.UvicornWorker", "site_app:asgi"),
        recycled=("--max-requests=4",),
    ),
    "uwsgi": uwsgi("--enable-threads", "--processes=2", workers=2),
    "uwsgi --lazy-apps": uwsgi("--enable-threads", "--processes=2", "--lazy-apps", workers=2),
    "uwsgi --threads": uwsgi("--threads=4", "--processes=2", workers=2),
    "uwsgi without threads": uwsgi("--processes=2", workers=2),
    "uwsgi --skip-atexit-teardown": uwsgi("--enable-threads", "--skip-atexit-teardown"),
    "uwsgi --py-call-osafterfork": uwsgi("--enable-threads", "--py-call-osafterfork"),
    "uwsgi --py-call-uwsgi-fork-hooks": uwsgi("--enable-threads", "--py-call-uwsgi-fork-hooks"),
    "uwsgi SIGHUP": uwsgi("--enable-threads", "--processes=2", workers=2),
    "uwsgi --touch-chain-reload": uwsgi(
        "--enable-threads", "--lazy-apps", "--touch-chain-reload=switched_on.py"
    ),
    "uwsgi without a master": Server((*UWSGI, "--enable-threads"), group=False),
    "gunicorn gevent": Server((*GUNICORN, "--worker-class=gevent", "site_app:wsgi"), group=False),
}
BRIEFLY = {
    "uvicorn --workers": ("SIGTERM", "ours"),
    "uvicorn.Server": ("SIGINT", "the app's"),
    "hypercorn": ("SIGTERM", "zero-code"),
    "gunicorn --preload": ("recycled", "ours"),
    "gunicorn uvicorn_worker": ("SIGTERM", "zero-code"),
    "uwsgi": ("SIGTERM", "ours"),
    "uwsgi --lazy-apps": ("recycled", "zero-code"),
}
"""What is tried of all that at less than full size: one ending of each."""

MODES = ("ours", "the app's", "zero-code")
ENDINGS = ("SIGTERM", "SIGINT", "recycled")


def table() -> Iterator[object]:
    """Yield a case for each cell."""
    for name, server in SERVERS.items():
        if "osafterfork" in name and sys.version_info >= (3, 13):
            continue  # it ends every worker there, without us too
        cells = [(e, m) for e in ENDINGS for m in MODES if e != "recycled" or server.recycled]
        if SIZE < WHOLE:
            cells = [BRIEFLY[name]] if name in BRIEFLY else []
        for ending, mode in cells:
            yield pytest.param(name, ending, mode, id=f"{name}, {ending}, {mode}")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.mark.parametrize(("name", "ending", "mode"), list(table()))
def test_nothing_is_lost_when_a_server_ends(
    api: FakeApi, collector: Collector, tmp_path, *, name: str, ending: str, mode: str
):
    server = SERVERS[name]
    words = (*server.words, *(server.recycled if ending == "recycled" else ()))
    for file in ("site_app.py", "switched_on.py", "programmatic_uvicorn.py"):
        shutil.copy(HERE / file, tmp_path)
    env = environment(api, collector, mode, PYTHONPATH=str(tmp_path))
    if "gevent" in name and mode == "zero-code":
        env["OTEL_PYTHON_AUTO_INSTRUMENTATION_EXPERIMENTAL_GEVENT_PATCH"] = "patch_all"
    with listening() as listener:
        fd = listener.fileno()
        arguments = command(mode, *(word.format(fd=fd) for word in words))
        with running(arguments, env, tmp_path, pass_fds=[fd]) as app:
            visit(listener, server.workers)
            if "uwsgi" in name:
                time.sleep(1)  # a worker that is still busy at the signal ends as it is
            if "-reload" in name or name == "uwsgi SIGHUP":
                if name == "uwsgi SIGHUP":
                    app.process.send_signal(signal.SIGHUP)
                (tmp_path / "switched_on.py").touch()
                # Until the old worker has ended: SIGINT to one that is ending means at once.
                wait_until(lambda: told(api, collector).spans, app)
                visit(listener)
                time.sleep(1 if "uwsgi" in name else 0)
            if ending == "recycled" and name == "uvicorn":
                app.end()
            elif ending == "SIGINT":
                app.end(signal.SIGINT, group=server.group)
            else:
                app.end(signal.SIGTERM)

    made = len(api.requests)
    assert made >= 4
    assert told(api, collector) == Told(made, made, made), app.said
    assert app.exit_s < 5 + SLACK_S
    # The SDK's threads, which a fork under gevent takes along, end with one; without us too.
    assert "Traceback" not in app.said or (name, mode) == ("gunicorn gevent", "zero-code")
