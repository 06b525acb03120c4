"""The moments of a process's end: what they cost together, and what they leave as it was."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest
from apps import HERE, command, environment, listening, running, told, visit, wait_until

from otlp import Collector

if TYPE_CHECKING:
    from pathlib import Path

    from assisters_otel.testing import FakeApi

THREE = '''
import asyncio, sys, time
import httpx, uvicorn
import switched_on
from site_app import API, TLS, asgi

async def server_that_ends() -> None:
    """A server as a test suite or a desktop app starts it: the process goes on."""
    server = uvicorn.Server(uvicorn.Config(asgi, port=0, log_level="error"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    httpx.get(f"{API}/models", trust_env=False, verify=TLS)
    server.should_exit = True
    longest_s = 0.0
    while not serving.done():
        beat_s = time.monotonic()
        await asyncio.sleep(0.01)
        longest_s = max(longest_s, time.monotonic() - beat_s)
    await serving
    assert longest_s < 2, "the loop stood still"

started_s = time.monotonic()
for _ in range(3):
    asyncio.run(server_that_ends())
print('ended after', time.monotonic() - started_s)
'''


def three_servers(api: FakeApi, collector: Collector, folder: Path, mode: str) -> tuple[float, str]:
    """Run three servers, one after the other, in one process; give how long it took them to end."""
    (folder / "three.py").write_text(THREE)
    env = environment(api, collector, mode, PYTHONPATH=f"{HERE}:{folder}")
    with running([sys.executable, "three.py"], env, folder) as app:
        app.end()
    assert app.code == 0, app.said
    return app.exit_s, app.said


@pytest.mark.parametrize("mode", ["ours", "the app's"])
def test_a_collector_that_hangs_holds_all_moments_up_for_five_seconds_together(
    api: FakeApi, tmp_path: Path, mode: str
):
    """Three servers and the exit are four moments: 20 s, if each took its own five."""
    with Collector() as collector:
        quick_s, _ = three_servers(api, collector, tmp_path, mode)
    with Collector(hang=True) as collector:
        slow_s, said = three_servers(api, collector, tmp_path, mode)

    # At the exit the SDK's own providers wait for themselves, for as long as they ever do.
    if mode == "ours":
        assert slow_s - quick_s < 9, said
    ended_s = re.search(r"^ended after ([\d.]+)", said, re.MULTILINE)
    assert ended_s is not None, said
    assert float(ended_s[1]) < quick_s + 9, said


def test_a_collector_that_is_not_there_holds_no_moment_up_for_long(api: FakeApi, tmp_path: Path):
    with Collector() as collector:
        quick_s, _ = three_servers(api, collector, tmp_path, "ours")
    slow_s, said = three_servers(api, collector, tmp_path, "ours")

    assert slow_s - quick_s < 9, said
    assert said.count("telemetry does not get through") == 1


def test_a_server_that_ends_sends_what_is_queued_and_the_process_goes_on(
    api: FakeApi, tmp_path: Path
):
    with Collector() as collector:
        three_servers(api, collector, tmp_path, "ours")

        assert told(api, collector) == (3, 3, 3)


def test_a_server_in_another_thread_holds_nothing_up_when_it_ends(api: FakeApi, tmp_path: Path):
    """uvicorn takes no signals there: the process does not end with it. `FakeApi` is such a one."""
    script = """
        import time
        import httpx
        from assisters_otel.testing import FakeApi
        import switched_on

        with FakeApi():
            httpx.get(f"{switched_on.os.environ['API']}/models", trust_env=False)
            started_s = time.monotonic()
        print(time.monotonic() - started_s)
        switched_on.handle.shutdown()
    """
    (tmp_path / "thread.py").write_text(textwrap.dedent(script))
    with Collector(hang=True) as collector:
        env = environment(api, collector, "ours", PYTHONPATH=f"{HERE}:{tmp_path}")
        with running([sys.executable, "thread.py"], env, tmp_path) as app:
            app.end()

    assert float(app.said.split()[0]) < 3, app.said


def test_a_second_ctrl_c_waits_for_no_collector(api: FakeApi, tmp_path: Path):
    with Collector(hang=True) as collector, listening() as listener:
        fd = listener.fileno()
        env = environment(api, collector, "ours", PYTHONPATH=str(HERE))
        words = command("ours", "uvicorn", f"--fd={fd}", "--log-level=info", "site_app:asgi")
        with running(words, env, tmp_path, pass_fds=[fd]) as app:
            visit(listener, times=1)
            app.process.send_signal(signal.SIGTERM)
            collector.wait_for(lambda: collector.requests, timeout_s=60)
            app.process.send_signal(signal.SIGINT)
            app.end()

    assert app.exit_s < 4, app.said


BACK = """
import asyncio, os
import httpx, uvicorn
import switched_on
from site_app import API, TLS, asgi

async def server_that_ends():
    server = uvicorn.Server(uvicorn.Config(asgi, port=0, log_level="error"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    httpx.get(f"{API}/models", trust_env=False, verify=TLS)
    server.should_exit = True
    await serving

asyncio.run(server_that_ends())
print("the collector is back", flush=True)
input()
httpx.get(f"{API}/models", trust_env=False, verify=TLS)
"""


def test_a_collector_that_is_back_takes_what_is_sent_at_the_exit(api: FakeApi, tmp_path: Path):
    """A server that has ended while nobody listened leaves time for the exit."""
    (tmp_path / "back.py").write_text(BACK)
    with Collector() as gone:
        env = environment(api, gone, "ours", PYTHONPATH=f"{HERE}:{tmp_path}")
    reader, writer = os.pipe()
    with running([sys.executable, "back.py"], env, tmp_path, stdin=reader) as app:
        wait_until(lambda: "back" in app.said, app)
        with Collector(port=int(gone.endpoint.rpartition(":")[2])) as collector:
            # The exporter pauses for seconds before it tries again, and nobody breaks that off.
            collector.wait_for(lambda: len({r.path for r in collector.requests}) == 2, timeout_s=60)
            os.write(writer, b"\n")
            app.end()
            assert told(api, collector)[2] == 2, app.said
            assert len(collector.spans()) >= 1
    os.close(reader)
    os.close(writer)


def test_requests_that_uvicorn_cancels_at_its_end_are_not_lost(api: FakeApi, tmp_path: Path):
    for _ in range(5):
        api.answers(fault="silence")
    with Collector() as collector, listening() as listener:
        fd = listener.fileno()
        env = environment(api, collector, "ours", PYTHONPATH=str(HERE))
        words = ("uvicorn", f"--fd={fd}", "--timeout-graceful-shutdown=1", "site_app:asgi")
        with running(command("ours", *words), env, tmp_path, pass_fds=[fd]) as app:
            visitors = [visitor(listener) for _ in range(5)]
            wait_until(lambda: len(api.requests) == 5, app)
            app.end(signal.SIGTERM)
            for one in visitors:
                one.close()

        assert told(api, collector) == (5, 5, 5), app.said


def visitor(listener: socket.socket) -> socket.socket:
    """Ask the site for something, and do not wait for it."""
    visitor = socket.create_connection(listener.getsockname())
    visitor.sendall(b"GET / HTTP/1.1\r\nHost: site\r\n\r\n")
    return visitor
