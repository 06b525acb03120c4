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

from callers import TLS
from otlp import Collector
from sizes import sized

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assisters_otel.testing import FakeApi

APPS = Path(__file__).parent.parent / "runtimes"
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
SLACK_S = 10  # on a busy machine everything takes longer


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def environment(api: FakeApi, collector: Collector, **more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    ours = {
        "API": api.url,
        "MODE": "ours",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
    }
    path = os.pathsep.join([str(APPS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**clean, **ours, "PYTHONPATH": path, **more}


def instances(collector: Collector) -> dict[str, int]:
    """How many requests each process has counted, by its instance."""
    counts = {
        point.resource["service.instance.id"]: point.count
        for point in collector.points("assisters.client.request.duration")
    }
    spans = Counter(span.resource["service.instance.id"] for span in collector.spans())
    assert len({span.span_id for span in collector.spans()}) == len(collector.spans())
    assert spans == counts
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
            until_s = time.monotonic() + 60  # for the other worker to be there
            while (by_worker.total() < 20 or len(by_worker) < 2) and time.monotonic() < until_s:
                by_worker[httpx.get(address, timeout=60, trust_env=False, verify=TLS).text] += 1
            process.send_signal(signal.SIGTERM)
            started_s = time.monotonic()
            err = process.communicate(timeout=60)[1]
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
    assert served.exit_s < 5 + SLACK_S
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
    assert served.exit_s < 5 + SLACK_S
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

            httpx.get(URL + "/models", trust_env=False, verify=False)
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
        timeout=180,
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
        timeout=180,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert sorted(instances(collector).values()) == [2, 4]


# -- a fork beside threads ----------------------------------------------------------------------

FORK = """
import warnings

warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
import gc, os, sys, threading
import assisters_otel, httpx

def send(client):
    assert client.get(URL + "/models").status_code == 200

def send_by_own():
    with httpx.Client(trust_env=False, verify=False) as own:
        send(own)

def fork(then):
    pid = os.fork()
    if pid == 0:
        then()
        sys.exit()
    assert os.waitpid(pid, 0)[1] == 0

telemetry = assisters_otel.init("forks", hosts=[URL])
# The first request imports, and no fork is safe beside an import: its lock stays held.
send_by_own()
"""
MIDDLE = """
stop = threading.Event()
sent = []

def send_on():
    while not stop.is_set():
        send(client)
        sent.append(1)

def child():
    send_by_own()
    assert telemetry.flush(60)

client = httpx.Client(trust_env=False, verify=False)
threads = [threading.Thread(target=send_on) for _ in range(2)]
for thread in threads:
    thread.start()
for _ in range(CHILDREN):
    fork(child)
stop.set()
for thread in threads:
    thread.join()
assert telemetry.flush(60)
print(len(sent))
"""
LOCKS = """
KINDS = type(threading.Lock()), type(threading.RLock())

def locks():
    # Of the library, and of the SDK's instruments: a thread that records holds one after the other.
    for one in gc.get_objects():
        if str(type(one).__module__).startswith(("assisters_otel", "opentelemetry.sdk.metrics")):
            for name, lock in getattr(one, "__dict__", {}).items():
                if isinstance(lock, KINDS):
                    yield f"{type(one).__name__}.{name}", lock

def hold():
    found = list(locks())
    for _, lock in found:
        assert lock.acquire(timeout=60)
    print(*(name for name, _ in found), flush=True)
    held.set()
    threading.Event().wait()

def child():
    send_by_own()
    assert telemetry.flush(60)

held = threading.Event()
threading.Thread(target=hold, daemon=True).start()
held.wait()
fork(child)
os._exit(0)
"""
EXPORTING = """
from opentelemetry import metrics

# The app has instruments of its own, which its child goes on using.
metrics.get_meter("app").create_counter("theirs").add(1)

def child():
    send_by_own()
    assert telemetry.flush(60)

def hold():
    for pool in gc.get_objects():
        if type(pool).__name__ == "HTTPConnectionPool":
            pool.pool.mutex.acquire()

threading.Thread(target=telemetry.flush, args=(60,), daemon=True).start()
sys.stdin.readline()  # until both exports are under way
holder = threading.Thread(target=HOLD)
holder.start()
holder.join()
fork(child)
os._exit(0)
"""


def forking(api: FakeApi, collector: Collector, script: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", f"URL = {api.url!r}\n{script}"],
        env=environment(
            api,
            collector,
            OTEL_BSP_MAX_QUEUE_SIZE="100000",
            OTEL_EXPORTER_OTLP_TIMEOUT="60",  # on a busy machine an export takes its time
            **more,
        ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], said: str = "") -> str:
    """Wait for the process, which must end well and write nothing; give what it prints."""
    try:
        out, err = process.communicate(said, timeout=100)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (0, "")
    return out


@needs_fork
def test_a_child_forked_in_the_middle_of_requests_does_not_wait_for_locks(api, collector):
    children = sized(10, at_least=3)

    out = ended(forking(api, collector, f"CHILDREN = {children}\n{FORK}{MIDDLE}"))

    assert sorted(instances(collector).values()) == [1] * children + [int(out) + 1]


@needs_fork
def test_a_child_forked_while_another_thread_records_needs_no_lock_of_the_instruments(
    api, collector
):
    # However long it takes, the parent exports nothing: it ends without a flush.
    out = ended(forking(api, collector, FORK + LOCKS, OTEL_BSP_SCHEDULE_DELAY="3600000"))

    held = out.split()
    assert {"_ViewInstrumentMatch._lock", "WatchedHosts._lock", "OwnedProviders._lock"} <= set(held)
    assert sorted(instances(collector).values()) == [1]


@needs_fork
@pytest.mark.parametrize("hold", ["bool", "hold"], ids=["exports", "holds its connections"])
def test_a_child_forked_while_its_parent_exports_waits_for_nothing(api, collector, hold):
    collector.hang = True
    process = forking(api, collector, FORK + EXPORTING.replace("HOLD", hold))
    try:
        collector.wait_for(lambda: len(collector.requests) == 2, timeout_s=60)
        collector.hang = False
    except AssertionError:
        process.kill()
        raise

    ended(process, "\n")

    assert sorted(instances(collector).values()) == [1, 1]
