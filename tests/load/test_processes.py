"""Servers with workers, and multiprocessing in all its ways: whose spans and counts arrive."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import httpx
import pytest

from otlp import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assisters_otel.testing import FakeApi

HERE = Path(__file__).parent
ENOUGH = 200  # requests; two workers have shared out far fewer on every machine so far


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def environment(api: FakeApi, collector: Collector, **more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    ours = {"API": api.url, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
    return {**clean, **ours, "PYTHONPATH": str(HERE), **more}


def instances(collector: Collector) -> dict[str, int]:
    """How many requests each process has counted, by its instance."""
    counts = {
        point.resource["service.instance.id"]: point.count
        for point in collector.points("assisters.client.request.duration")
    }
    theirs = {
        point.resource["service.instance.id"]: point.count
        for point in collector.points("http.client.duration")
    }
    spans = Counter(span.resource["service.instance.id"] for span in collector.spans())
    assert len({span.span_id for span in collector.spans()}) == len(collector.spans())
    assert spans == counts == theirs
    return counts


class Served(NamedTuple):
    by_worker: list[int]
    code: int
    exit_s: float
    err: str


def serve(*command: str, env: dict[str, str]) -> Served:
    """Start a server, send requests until both workers have answered some, and end it."""
    by_worker: Counter[str] = Counter()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        listener.set_inheritable(True)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        fd = listener.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", *[word.format(fd=fd) for word in command]],
            env=env,
            pass_fds=[fd],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            for number in range(ENOUGH):
                by_worker[httpx.get(address, timeout=30, trust_env=False).text] += 1
                if number > 20 and len(by_worker) == 2:
                    break
            process.send_signal(signal.SIGTERM)
            started_s = time.monotonic()
            err = process.communicate(timeout=30)[1]
        finally:
            process.kill()
            process.wait()
    assert len(by_worker) == 2
    exit_s = time.monotonic() - started_s
    return Served(sorted(by_worker.values()), process.returncode, exit_s, err)


GUNICORN = ("gunicorn", "--workers=2", "--bind=fd://{fd}", "--log-level=warning")


@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn needs fork")
@pytest.mark.parametrize(
    "more",
    [
        ("--preload",),
        ("--preload", "--worker-class=gthread", "--threads=4"),
        (),
        ("--worker-class=gevent",),
    ],
    ids=["preload", "preload, threads", "init in each worker", "gevent"],
)
def test_gunicorn_s_workers_and_master_count_their_own_requests(api, collector, more):
    preloaded = 3 if "--preload" in more else 0

    served = serve(
        *GUNICORN,
        *more,
        "site_app:wsgi",
        env=environment(api, collector, IN_MASTER=str(preloaded)),
    )

    said = [line for line in served.err.splitlines() if not line.startswith("a fork under gevent")]
    # httpcore imports trio, where that is installed, and trio's import runs a program.
    assert served.err == "" or "--worker-class=gevent" in more
    assert (served.code, said) == (0, [])
    assert served.exit_s < 5 + 3
    expected = [preloaded, *served.by_worker] if preloaded else served.by_worker
    assert sorted(instances(collector).values()) == sorted(expected)


def test_uvicorn_s_workers_count_their_own_requests(api, collector):
    served = serve(
        "uvicorn",
        "--workers=2",
        "--fd={fd}",
        "--log-level=warning",
        "site_app:asgi",
        env=environment(api, collector),
    )

    assert "Traceback" not in served.err
    assert served.exit_s < 5 + 3
    assert sorted(instances(collector).values()) == served.by_worker


SCRIPT = """
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor

import assisters_otel

URL = os.environ["API"]
how, where, by = sys.argv[1:]
MAIN = __name__ == "__main__"

def begin():
    assisters_otel.init("processes", hosts=[URL])

def call(times):
    client = os.environ.get("CLIENT", "httpx")
    for _ in range(times):
        if client == "httpx":
            import httpx

            httpx.get(URL + "/models", trust_env=False)
        elif client == "requests":
            import requests

            requests.get(URL + "/models")
        else:
            import asyncio

            import aiohttp

            async def get():
                async with aiohttp.request("GET", URL + "/models"):
                    pass

            asyncio.run(get())

def child(times):
    if where == "target":
        begin()
    call(times)

if where == "module" and not MAIN:
    begin()

if MAIN:
    if where in ("parent", "module"):
        begin()
        call(3)
    context = multiprocessing.get_context(how)
    if by == "pool":
        initializer = begin if where == "initializer" else None
        with ProcessPoolExecutor(1, context, initializer=initializer) as pool:
            pool.submit(child, 2).result()
    else:
        process = context.Process(target=child, args=(2,))
        process.start()
        process.join()
        assert process.exitcode == 0
    if where in ("parent", "module"):
        call(1)
"""

WAYS = [
    # how, where init is called, by what, what each process has counted
    pytest.param("fork", "target", "process", [2], id="fork, init in the child"),
    pytest.param("fork", "initializer", "pool", [2], id="fork, init in a pool's initializer"),
    pytest.param("spawn", "target", "process", [2], id="spawn, init in the child"),
    pytest.param("spawn", "module", "pool", [2, 4], id="spawn, init in the module"),
    pytest.param("forkserver", "target", "process", [2], id="forkserver, init in the child"),
    pytest.param("forkserver", "module", "process", [2, 4], id="forkserver, init in the module"),
    pytest.param("forkserver", "initializer", "pool", [2], id="forkserver, init in a pool"),
]


@pytest.mark.parametrize(("how", "where", "by", "expected"), WAYS)
def test_a_child_of_multiprocessing_exports_what_it_has_counted(
    api, collector, tmp_path, *, how, where, by, expected
):
    script = tmp_path / "processes.py"
    script.write_text(textwrap.dedent(SCRIPT))

    done = subprocess.run(
        [sys.executable, str(script), how, where, by],
        env=environment(api, collector),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(instances(collector).values()) == expected


@pytest.mark.parametrize("client", ["httpx", "requests", "aiohttp"])
def test_a_child_has_none_of_what_its_parent_has_counted(api, collector, tmp_path, client):
    """Also not of what OpenTelemetry's instrumentation of the client has counted for us."""
    script = tmp_path / "processes.py"
    script.write_text(textwrap.dedent(SCRIPT))

    done = subprocess.run(
        [sys.executable, str(script), "fork", "parent", "process"],
        env=environment(api, collector, CLIENT=client),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert sorted(instances(collector).values()) == [2, 4]


FORKS = """
import os, sys, threading
import assisters_otel, httpx

telemetry = assisters_otel.init("forks", hosts=[URL])
stop = threading.Event()

def send(client):
    while not stop.is_set():
        client.get(URL + "/models")
        sent.append(1)

sent = []
client = httpx.Client(trust_env=False, verify=False)
# The first request imports, and no fork is safe beside an import: its lock stays held.
client.get(URL + "/models")
threads = [threading.Thread(target=send, args=(client,)) for _ in range(2)]
for thread in threads:
    thread.start()
for _ in range(CHILDREN):
    pid = os.fork()
    if pid == 0:
        with httpx.Client(trust_env=False, verify=False) as own:
            own.get(URL + "/models")
        sys.exit()
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
for thread in threads:
    thread.join()
print(len(sent))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_forked_in_the_middle_of_requests_does_not_wait_for_locks(api, collector):
    head = f"URL = {api.url!r}\nCHILDREN = 4\n"

    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", head + FORKS],
        env=environment(api, collector, OTEL_BSP_MAX_QUEUE_SIZE="100000"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert sorted(instances(collector).values()) == [1] * 4 + [int(done.stdout) + 1]
