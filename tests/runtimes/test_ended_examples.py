"""The examples of services, workers and jobs lose nothing as they stand when they are ended."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from apps import attempts, command, environment, listening, running, told, wait_until
from redis_server import redis_server

from callers import TLS
from otlp import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assisters_otel.testing import FakeApi

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def outside(api: FakeApi, collector: Collector, **more: str) -> dict[str, str]:
    ours = {"ASSISTERS_BASE_URL": api.url, "ASSISTERS_API_KEY": "ask_test_1234567890"}
    path = os.pathsep.join(filter(None, [str(EXAMPLES), os.environ.get("PYTHONPATH")]))
    return environment(api, collector, "ours", PYTHONPATH=path, **ours, **more)


def test_fastapi_service_under_uvicorn_with_workers(
    api: FakeApi, collector: Collector, tmp_path: Path
):
    with listening() as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        words = ("uvicorn", "--workers=2", "--timeout-worker-healthcheck=60", f"--fd={fd}")
        words = command("ours", *words, "--log-level=warning", "fastapi_service:app")
        with running(words, outside(api, collector), tmp_path, pass_fds=[fd]) as app:
            for number in range(6):
                address = f"http://127.0.0.1:{port}/greeting?name={number}"
                assert httpx.get(address, trust_env=False, verify=TLS, timeout=60).is_success
            app.end(signal.SIGTERM)

    assert told(api, collector) == (6, 6, 6), app.said
    names = [span.name for span in collector.spans()]
    assert names.count("greeting") == names.count("chat assisters-chat-v1") == 6


def test_celery_worker(api: FakeApi, collector: Collector, tmp_path: Path):
    api.answers("rate_limit_exceeded", retry_after=0)
    with redis_server() as url:
        from celery import Celery

        with Celery(broker=url) as sender:
            sender.send_task("celery_worker.greet", ["Ada"])
        words = command("ours", "celery", "-A", "celery_worker", "worker", "--concurrency=1")
        env = outside(api, collector, CELERY_BROKER_URL=url)
        with running(words, env, tmp_path) as app:
            wait_until(lambda: "Hello from the fake API." in app.said, app)
            app.end(signal.SIGTERM)

    assert told(api, collector) == (2, 2, 2), app.said
    counts = [span.attributes.get("http.request.resend_count") for span in attempts(collector)]
    assert sorted(counts, key=bool) == [None, 1]


def test_tenant_with_celery(api: FakeApi, collector: Collector, tmp_path: Path):
    api.answers("ok", "insufficient_funds", "ok")
    with redis_server() as url:
        from celery import Celery

        with Celery(broker=url) as sender:
            for headers in ({"tenant": "acme"}, {"tenant": "umbrella"}, None):
                sender.send_task("tenant_with_celery.greet", ["Ada"], headers=headers)
        words = command("ours", "celery", "-A", "tenant_with_celery", "worker", "--concurrency=1")
        env = outside(api, collector, CELERY_BROKER_URL=url)
        with running(words, env, tmp_path) as app:
            wait_until(lambda: len(api.requests) == 3, app)
            app.end(signal.SIGTERM)

    calls = [span for span in collector.spans() if span.name.startswith("chat")]
    found = {(one.attributes["tenant"], one.attributes["assisters.call.outcome"]) for one in calls}
    assert found == {("acme", "ok"), ("umbrella", "failed"), ("unknown", "ok")}, app.said
    (error,) = collector.points("assisters.client.errors")
    assert error.attributes["tenant"] == "umbrella"


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
def test_cron_job_that_is_stopped(api: FakeApi, collector: Collector, tmp_path: Path):
    api.answers("ok")
    api.answers("ok", delay_s=60)
    words = [sys.executable, str(EXAMPLES / "cron_job.py")]
    with running(words, outside(api, collector), tmp_path) as app:
        wait_until(lambda: len(api.requests) == 2, app)
        app.end(signal.SIGTERM)

    assert app.code == 143, app.said
    (call, stopped) = [span for span in collector.spans() if span.name.startswith("chat")]
    outcomes = [span.attributes["assisters.call.outcome"] for span in (call, stopped)]
    assert outcomes == ["ok", "cancelled"]


def test_cron_job(api: FakeApi, collector: Collector, tmp_path: Path):
    words = [sys.executable, str(EXAMPLES / "cron_job.py"), "Ada"]
    with running(words, outside(api, collector), tmp_path) as app:
        app.end()

    assert (app.code, app.said) == (0, "Hello from the fake API.\n")
    assert told(api, collector) == (1, 1, 1)
