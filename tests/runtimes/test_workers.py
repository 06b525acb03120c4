"""Workers of queues that end: as many spans arrive, and are counted, as attempts were made.

And what they show as a unit of work is a flow of control of its own: no task resends another's.
"""

from __future__ import annotations

import importlib
import os
import signal
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from apps import HERE, SLACK_S, Told, command, environment, running, told, wait_until
from redis_server import redis_server

from otlp import Collector
from sizes import SIZE, WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from assisters_otel.testing import FakeApi

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="Celery and RQ fork")

CELERY = ("celery", "-A", "celery_jobs", "worker", "--loglevel=WARNING")
RQ = ("rq_worker", "{redis}")
DRAMATIQ = ("dramatiq", "dramatiq_jobs", "--processes=2", "--threads=2")
JOBS = 4


MODES = ("ours", "the app's", "zero-code")


class Worker(NamedTuple):
    """A worker, what ends it, the kinds of jobs that it is given, and who makes providers."""

    words: tuple[str, ...]
    endings: tuple[str, ...] = ("SIGTERM", "SIGINT")
    jobs: tuple[str, ...] = ("once",)
    modes: tuple[str, ...] = MODES


CELERIES = {
    "prefork": Worker((*CELERY, "--concurrency=2")),
    "prefork, a task a child": Worker((*CELERY, "--concurrency=2", "--max-tasks-per-child=1")),
    "prefork, exceptions": Worker((*CELERY, "--concurrency=2"), jobs=("once", "fails")),
    "prefork, time limits": Worker((*CELERY, "--concurrency=2"), jobs=("once", "too_long")),
    "threads": Worker((*CELERY, "--pool=threads", "--concurrency=2"), jobs=("once", "fails")),
    "solo": Worker((*CELERY, "--pool=solo"), jobs=("once", "fails")),
    # With the SDK's own providers, made before us, a worker on gevent may lose what Redis has sent,
    # and hang: greenlets run in the fork that runs a program (test_gevent.py), without us too.
    "gevent": Worker((*CELERY, "--pool=gevent", "--concurrency=2"), modes=("ours",)),
}
RQS = {
    "fork": Worker((*RQ, "Worker"), ("SIGTERM", "SIGINT", "burst"), ("once", "fails")),
    "fork, time limits": Worker((*RQ, "Worker"), ("burst",), ("once", "too_long")),
    "spawn": Worker((*RQ, "SpawnWorker"), ("SIGTERM", "burst"), ("once", "fails")),
    "simple": Worker((*RQ, "SimpleWorker"), ("SIGTERM", "SIGINT", "burst"), ("once", "fails")),
}
DRAMATIQS = {
    "dramatiq": Worker(DRAMATIQ, jobs=("once", "once_async", "fails")),
    "dramatiq, spawned": Worker((*DRAMATIQ, "--use-spawn"), ("SIGTERM",)),
    "dramatiq, time limits": Worker(DRAMATIQ, ("SIGTERM",), ("once", "too_long"), ("ours",)),
    "dramatiq, a second signal": Worker(DRAMATIQ, ("killed",), modes=("ours",)),
}


BRIEFLY = {
    "prefork": ("SIGTERM", "zero-code"),
    "prefork, a task a child": ("SIGTERM", "ours"),
    "threads": ("SIGINT", "the app's"),
    "fork": ("SIGTERM", "ours"),
    "spawn": ("burst", "the app's"),
    "dramatiq": ("SIGTERM", "zero-code"),
    "dramatiq, time limits": ("SIGTERM", "ours"),
}
"""What is tried of all that at less than full size: one ending of each."""

POOLS = ("solo", "threads", "prefork") if SIZE >= WHOLE else ("prefork",)


def table(workers: dict[str, Worker]) -> Iterator[object]:
    """Yield a case for each cell."""
    for name, worker in workers.items():
        cells = [(ending, mode) for ending in worker.endings for mode in worker.modes]
        if SIZE < WHOLE:
            cells = [BRIEFLY[name]] if name in BRIEFLY else []
        for cell in cells:
            yield pytest.param(name, *cell, id=", ".join((name, *cell)))


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with redis_server() as url:
        yield url


@pytest.fixture
def queue(redis_url: str) -> str:
    """The URL of a database with nothing in it."""
    redis = importlib.import_module("redis")
    with redis.Redis.from_url(redis_url) as connection:
        connection.flushall()
    return redis_url


class Tasks:
    """Celery's tasks as an app sends them, that is by name."""

    def __init__(self, url: str) -> None:
        self.app = importlib.import_module("celery").Celery(broker=url, backend=url)
        self.sent: list[Any] = []

    def send(self, name: str, *arguments: object) -> None:
        self.sent.append(self.app.send_task(f"celery_jobs.{name}", arguments))

    def are_done(self) -> bool:
        return all(one.ready() for one in self.sent)

    def close(self) -> None:
        self.sent.clear()
        self.app.close()


@pytest.fixture
def tasks(queue: str) -> Iterator[Tasks]:
    tasks = Tasks(queue)
    yield tasks
    tasks.close()


@pytest.mark.parametrize(("name", "ending", "mode"), list(table(CELERIES)))
def test_nothing_is_lost_when_a_celery_worker_ends(
    api: FakeApi,
    collector: Collector,
    tasks: Tasks,
    queue: str,
    tmp_path: Path,
    *,
    name: str,
    ending: str,
    mode: str,
):
    worker = CELERIES[name]
    env = environment(api, collector, mode, REDIS=queue, PYTHONPATH=str(HERE))
    for number in range(JOBS):
        tasks.send(worker.jobs[number % len(worker.jobs)])
    with running(command(mode, *worker.words), env, tmp_path) as app:
        wait_until(tasks.are_done, app)
        by = signal.SIGINT if ending == "SIGINT" else signal.SIGTERM
        app.end(by, group=ending == "SIGINT")

    assert told(api, collector) == Told(JOBS, JOBS, JOBS), app.said
    assert app.exit_s < 5 + SLACK_S


class Jobs:
    """RQ's jobs as an app sends them, that is by name."""

    def __init__(self, url: str) -> None:
        rq = importlib.import_module("rq")
        self.connection = importlib.import_module("redis").Redis.from_url(url)
        self.queue = rq.Queue(connection=self.connection, default_timeout=60)
        self.sent: list[Any] = []

    def send(self, name: str, *arguments: object) -> None:
        # What is to be stopped has time to import the app first, on a busy machine as well.
        limit_s = 6 if name == "too_long" else None
        self.sent.append(self.queue.enqueue(f"rq_jobs.{name}", *arguments, job_timeout=limit_s))

    def are_done(self) -> bool:
        return all(job.get_status().value in {"finished", "failed"} for job in self.sent)


@pytest.fixture
def jobs(queue: str) -> Iterator[Jobs]:
    jobs = Jobs(queue)
    with jobs.connection:
        yield jobs


@pytest.mark.parametrize(("name", "ending", "mode"), list(table(RQS)))
def test_nothing_is_lost_when_a_rq_worker_ends(
    api: FakeApi,
    collector: Collector,
    jobs: Jobs,
    queue: str,
    tmp_path: Path,
    *,
    name: str,
    ending: str,
    mode: str,
):
    worker = RQS[name]
    env = environment(api, collector, mode, PYTHONPATH=str(HERE))
    for number in range(JOBS):
        jobs.send(worker.jobs[number % len(worker.jobs)])
    words = [word.format(redis=queue) for word in worker.words]
    words += ["burst"] if ending == "burst" else []
    with running(command(mode, *words), env, tmp_path) as app:
        if ending == "burst":
            app.end()
        else:
            wait_until(jobs.are_done, app)
            by = signal.SIGINT if ending == "SIGINT" else signal.SIGTERM
            app.end(by, group=ending == "SIGINT")

    assert jobs.are_done()
    assert told(api, collector) == Told(JOBS, JOBS, JOBS), app.said
    assert ending == "burst" or app.exit_s < 5 + SLACK_S


class Messages:
    """Dramatiq's messages as an app sends them, that is by name."""

    def __init__(self, url: str) -> None:
        self._dramatiq = importlib.import_module("dramatiq")
        self.broker = importlib.import_module("dramatiq.brokers.redis").RedisBroker(url=url)
        self.broker.declare_queue("default")

    def send(self, name: str, *arguments: object) -> None:
        message = self._dramatiq.Message("default", name, arguments, {}, {})
        self.broker.enqueue(message)

    def are_done(self) -> bool:
        """Whether all is done. Its workers start before the main process has its handlers."""
        queues = ("default", "default.DQ")  # the second one has what is to be sent again
        return not sum(map(self.broker.do_qsize, queues))

    def close(self) -> None:
        self.broker.close()
        self.broker.client.connection_pool.disconnect()


@pytest.fixture
def messages(queue: str) -> Iterator[Messages]:
    messages = Messages(queue)
    yield messages
    messages.close()


@pytest.mark.parametrize(("name", "ending", "mode"), list(table(DRAMATIQS)))
def test_nothing_is_lost_when_a_dramatiq_worker_ends(
    api: FakeApi,
    collector: Collector,
    messages: Messages,
    queue: str,
    tmp_path: Path,
    *,
    name: str,
    ending: str,
    mode: str,
):
    worker = DRAMATIQS[name]
    env = environment(api, collector, mode, REDIS=queue, PYTHONPATH=str(HERE))
    env |= {"WITHOUT_LOOP": "yes"} if ending == "killed" else {}
    for number in range(JOBS):
        messages.send(worker.jobs[number % len(worker.jobs)])
    with running(command(mode, *worker.words), env, tmp_path) as app:
        wait_until(messages.are_done, app)
        wait_until(lambda: app.catches(signal.SIGTERM), app)
        if ending == "killed":
            app.process.send_signal(signal.SIGTERM)
            wait_until(lambda: app.said.count("Stopping worker") == 2, app)
        by = signal.SIGINT if ending == "SIGINT" else signal.SIGTERM
        app.end(by, group=ending == "SIGINT")

    assert told(api, collector) == Told(JOBS, JOBS, JOBS), app.said
    assert app.said.count("stopped in time") == worker.jobs.count("too_long") * JOBS // 2, app.said
    assert app.exit_s < 5 + SLACK_S


# -- units of work ------------------------------------------------------------------------------


def resends(collector: Collector) -> list[int]:
    """The resend counts of the attempts, a first being 0, in the order in which they began."""
    spans = sorted(collector.spans(), key=lambda span: span.start_ns)
    return [span.attributes.get("http.request.resend_count", 0) for span in spans]


@pytest.mark.parametrize("pool", POOLS)
def test_three_tasks_that_ask_the_same_are_three_firsts(
    api: FakeApi, collector: Collector, tasks: Tasks, queue: str, tmp_path: Path, pool: str
):
    api.answers(code="rate_limit_exceeded", times=3)
    words = command("ours", *CELERY, f"--pool={pool}", "--concurrency=1")
    env = environment(api, collector, "ours", REDIS=queue, PYTHONPATH=str(HERE))
    for _ in range(3):
        tasks.send("asks", "the same text")
    with running(words, env, tmp_path) as app:
        wait_until(tasks.are_done, app)
        app.end(signal.SIGTERM)

    assert resends(collector) == [0, 0, 0], app.said


@pytest.mark.parametrize("pool", POOLS)
def test_a_task_that_celery_runs_again_sends_again(
    api: FakeApi, collector: Collector, tasks: Tasks, queue: str, tmp_path: Path, pool: str
):
    api.answers(code="rate_limit_exceeded", times=3)
    words = command("ours", *CELERY, f"--pool={pool}", "--concurrency=1")
    env = environment(api, collector, "ours", REDIS=queue, PYTHONPATH=str(HERE))
    tasks.send("asks_again", "some text")
    with running(words, env, tmp_path) as app:
        wait_until(tasks.are_done, app)
        app.end(signal.SIGTERM)

    assert resends(collector) == [0, 1, 2], app.said


def test_three_jobs_that_ask_the_same_are_three_firsts(
    api: FakeApi, collector: Collector, jobs: Jobs, queue: str, tmp_path: Path
):
    api.answers(code="rate_limit_exceeded", times=4)
    env = environment(api, collector, "ours", PYTHONPATH=str(HERE))
    jobs.send("once")
    for _ in range(3):
        jobs.send("asks", "the same text")
    words = command("ours", "rq_worker", queue, "SimpleWorker", "burst")
    with running(words, env, tmp_path) as app:
        app.end()

    assert resends(collector) == [0, 0, 0, 0], app.said


@pytest.mark.parametrize("actor", ["asks", "asks_async"])
def test_three_messages_that_ask_the_same_are_three_firsts(
    api: FakeApi, collector: Collector, messages: Messages, queue: str, tmp_path: Path, actor: str
):
    api.answers(code="rate_limit_exceeded", times=3)
    words = command("ours", "dramatiq", "dramatiq_jobs", "--processes=1", "--threads=1")
    env = environment(api, collector, "ours", REDIS=queue, PYTHONPATH=str(HERE))
    for _ in range(3):
        messages.send(actor, "the same text")
    with running(words, env, tmp_path) as app:
        wait_until(messages.are_done, app)
        wait_until(lambda: app.catches(signal.SIGTERM), app)
        app.end(signal.SIGTERM)

    assert resends(collector) == [0, 0, 0], app.said


def test_a_message_that_dramatiq_sends_again_sends_again(
    api: FakeApi, collector: Collector, messages: Messages, queue: str, tmp_path: Path
):
    api.answers(code="rate_limit_exceeded", times=3)
    words = command("ours", "dramatiq", "dramatiq_jobs", "--processes=1", "--threads=1")
    env = environment(api, collector, "ours", REDIS=queue, PYTHONPATH=str(HERE))
    messages.send("asks_again", "some text")
    with running(words, env, tmp_path) as app:
        wait_until(lambda: len(api.requests) == 3 and messages.are_done(), app)
        wait_until(lambda: app.catches(signal.SIGTERM), app)
        app.end(signal.SIGTERM)

    assert resends(collector) == [0, 1, 2], app.said
