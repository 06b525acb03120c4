"""A process that forks while another of its threads holds a lock of the library."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import assisters_otel
from assisters_otel.testing import FakeApi
from otlp import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

SOURCES = Path(assisters_otel.__file__).parent
KINDS = {"Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore"}


def _locks() -> Iterator[str]:
    """Find the locks of the library in its sources: ``module attribute``, for each class."""
    for path in sorted(SOURCES.rglob("*.py")):
        parts = path.relative_to(SOURCES.parent).with_suffix("").parts
        if parts[1] in {"testing", "cli"}:  # these run in no process of an app's
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Assign | ast.AnnAssign) and _is_lock(node.value):
                for target in getattr(node, "targets", None) or [node.target]:
                    name = ast.unparse(target).removeprefix("self.")
                    if "." not in name:  # that of another class's is made anew, after a fork
                        yield f"{'.'.join(parts)} {name}"


def _is_lock(made: ast.expr | None) -> bool:
    return isinstance(made, ast.Call) and ast.unparse(made.func).rpartition(".")[2] in KINDS


LOCKS = sorted(set(_locks()))

SCRIPT = """
import gc, importlib, json, os, signal, sys, threading
import assisters_otel
import httpx, openai, requests

URL, LOCKS = sys.argv[1], json.loads(sys.argv[2])
CHAT = {"model": "m", "messages": []}

def ask():
    with httpx.Client(trust_env=False, verify=False) as own:
        for _ in range(2):
            own.post(URL + "/embeddings", json=CHAT)
            requests.post(URL + "/embeddings", json=CHAT)
        try:
            openai.OpenAI(
                base_url=URL, api_key="ask_k", max_retries=0, http_client=own
            ).chat.completions.create(**CHAT)
        except openai.OpenAIError:
            pass

def find(module, name):
    found = []
    for thing in gc.get_objects():
        # By its type: a proxy's class is that of what it stands for.
        if type(thing).__module__ == module and hasattr(thing, name):
            found.append(getattr(thing, name))
    made_here = vars(sys.modules[module]).get(name)
    return found if made_here is None else [*found, made_here]

telemetry = assisters_otel.init("forks", hosts=[URL])
# What is imported here and not in the child holds no lock of an import there.
for lock in LOCKS:
    importlib.import_module(lock.split()[0])  # such as that of a runtime
ask()
telemetry.flush(30)
for lock in LOCKS:
    held = find(*lock.split())
    assert held, lock
    is_held, is_over = threading.Event(), threading.Event()

    def hold():
        for one in held:
            one.acquire()
        is_held.set()
        is_over.wait()
        for one in held:
            one.release()

    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait()
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        ask()
        told = telemetry.status()
        assert (told.attempts, told.errors, told.last_failure) == (5, 5, None), told
        telemetry.flush(30)
        telemetry.shutdown()
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    is_over.set()
    thread.join()
    print(json.dumps([lock, code]), flush=True)
"""


@pytest.fixture(scope="module")
def ended() -> dict[str, int]:
    """How a child ended, by the lock that was held as it was forked."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    # What is not taken is told, and that takes a lock as well.
    with FakeApi() as api, Collector(status=400) as collector:
        api.answers("internal_error", times=1000, message="-")
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, api.url, json.dumps(LOCKS)],
            env={**clean, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint},
            capture_output=True,
            text=True,
            timeout=60 + 25 * len(LOCKS),
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return dict(map(json.loads, done.stdout.splitlines()))


@pytest.mark.parametrize("lock", LOCKS)
def test_a_child_waits_for_no_lock_that_a_thread_of_its_parent_held(ended, lock):
    assert ended[lock] == 0
