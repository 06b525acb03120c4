"""Plays scenarios: each call with an API of its own, in a thread of its own.

Python can end no thread. So a call that does not end in time goes on. From then on its API answers
with success, so that the call ends soon, and the call's own thread stops the API.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
import time
from concurrent.futures import Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from assisters_otel.testing.retry_policy.scenarios import CROWD
from assisters_otel.testing.server import FakeApi, on_requests

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from assisters_otel.testing.answers import Received
    from assisters_otel.testing.retry_policy.scenarios import Refusal, Scenario

_START_S: Final = 1.0
"""How long the start of the next caller of a crowd waits for the request of this one, in seconds.
Each creates a client. If all did so at once, that would lengthen the pauses that are measured."""

_SETTLED_S: Final = 5.0
"""How long the start of the crowd waits for the first request of all other calls, in seconds."""

_CANCELLED_S: Final = 1.0
"""How long a coroutine may take to end once it is cancelled, in seconds. Then it goes on alone."""

_APART_S: Final = 0.5
"""How long the start of the next spaced call waits for the end of this one, in seconds: as long as
the first pause of most policies."""

_APART: Final = 4
"""The least distance of two spaced calls, as a multiple of the time until the first request of the
earlier one. On a slow or busy machine calls that start sooner lengthen each other's pauses."""

_LOOK_S: Final = 0.1
"""How often the progress is looked at, in seconds."""


@dataclass
class Played:
    """One call that was played.

    Attributes:
        scenario: The scenario of the call.
        port: The port of the call's API.
        requests: The requests that the call had sent when it ended, or when its time was over.
        refusals: The refusal of each request, or None for a success.
        cpu_s: The CPU time of the process at the start and at each request, in seconds.
        left_s: The moment when the client first closed a connection without an answer, or None.
        has_ended: False if its time was over before it ended.
        began_s: The moment of its start, by `time.monotonic`.
        ended_s: The moment of its end.
        error: The exception that it raised, or None.
        value: The value that it returned.
    """

    scenario: Scenario
    port: int = 0
    requests: tuple[Received, ...] = ()
    refusals: list[Refusal | None] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    left_s: float | None = None
    has_ended: bool = False
    began_s: float = 0.0
    ended_s: float = 0.0
    error: BaseException | None = None
    value: object = None


@dataclass
class _Run:
    """A call that is being played."""

    played: Played
    api: FakeApi = field(default_factory=FakeApi)
    has_sent: threading.Event = field(default_factory=threading.Event)
    is_over: bool = False
    done: Future[None] = field(default_factory=Future)
    awaited: Future[object] | None = None
    first_s: float | None = None

    def refuse(self, received: Received) -> None:
        """Refuse a request as the scenario says. The API's thread calls this."""
        self.first_s = received.at_s if self.first_s is None else self.first_s
        self.played.cpu_s.append(time.process_time())
        refusals = self.played.refusals
        told = self.played.scenario.refuse(len(refusals) + 1, received.at_s - self.first_s)
        told = None if self.is_over else told
        refusals.append(told)
        if told is not None:
            self.api.answers(
                code=told.code,
                retry_after=told.retry_after,
                delay_s=told.delay_s,
                fault=told.fault,
            )
        self.has_sent.set()

    def leave(self, _received: Received) -> None:
        """Record the moment when a client first closes a connection without an answer."""
        if self.played.left_s is None:
            self.played.left_s = time.monotonic()


class Player:
    """Plays scenarios with one way to call the API.

    Args:
        call: Takes the API and returns the result, or an awaitable. All awaitables share one loop.
        limit_s: The longest time that a call may take, in seconds.
    """

    def __init__(self, call: Callable[[FakeApi], object], limit_s: float) -> None:
        """Start the event loop."""
        self._call = call
        self._limit_s = limit_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="assisters-check-retries", daemon=True
        )
        self._thread.start()
        self._open: list[_Run] = []
        self._ports: set[int] = set()
        self._progress = _Progress()

    def close(self) -> None:
        """End the event loop. If a call still uses it, a thread ends it after the last call."""
        self._progress.end()
        waiting = [run.done for run in self._open if not run.done.done()]
        if not waiting:
            self._end_loop(waiting)
            return
        threading.Thread(target=self._end_loop, args=(waiting,), daemon=True).start()

    def _end_loop(self, waiting: Sequence[Future[None]]) -> None:
        wait(waiting)

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._loop.shutdown_asyncgens()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def play(self, scenarios: Sequence[Scenario], *, parallel: bool) -> list[Played]:
        """Play each scenario with as many calls as it has callers; return when all have ended."""
        alone = [one for one in scenarios if one.name != CROWD]
        crowds = [one for one in scenarios if one.name == CROWD for _ in range(one.callers)]
        self._progress.begin(len(alone) + len(crowds))
        if not parallel:
            return [self._result(self._start(one)) for one in (*alone, *crowds)]
        runs = [self._start(one) for one in alone]
        settled_s = time.monotonic() + _SETTLED_S
        for run in runs:
            run.has_sent.wait(max(settled_s - time.monotonic(), 0))
        for one in crowds:
            runs.append(self._start(one))
            runs[-1].has_sent.wait(_START_S)
        return [self._result(run) for run in runs]

    def play_spaced(self, scenario: Scenario, *, parallel: bool) -> list[Played]:
        """Play a scenario with calls that disturb each other little; return when all have ended.

        The next one starts at the end of this one, or, if *parallel*, when this one has waited for
        long.
        """
        self._progress.begin(scenario.callers)
        runs = []
        for _ in range(scenario.callers):
            run = self._start(scenario)
            runs.append(run)
            if not parallel:
                self._result(run)
                continue
            run.has_sent.wait(_START_S)
            started_s = time.monotonic() - run.played.began_s
            wait([run.done], max(_APART_S, _APART * started_s))
        return [self._result(run) for run in runs]

    def _start(self, scenario: Scenario) -> _Run:
        run = self._listening(scenario)
        run.played.cpu_s.append(time.process_time())
        run.played.began_s = time.monotonic()
        self._open.append(run)
        threading.Thread(
            target=self._run, args=(run,), name=f"assisters-{scenario.name}", daemon=True
        ).start()
        return run

    def _listening(self, scenario: Scenario) -> _Run:
        """Return a run whose API listens on a port that none before it had.

        The calls are told apart by their ports, and the system may give one out again that a run
        has given back (test_no_two_calls_are_played_on_one_port).
        """
        with ExitStack() as taken:  # a port that is held is not given out a third time
            while True:
                run = _Run(Played(scenario))
                on_requests(run.api, run.refuse, run.leave)
                run.api.start()
                if run.api.port not in self._ports:
                    break
                taken.callback(run.api.stop)
        self._ports.add(run.api.port)
        run.played.port = run.api.port
        return run

    def _run(self, run: _Run) -> None:
        played = run.played
        try:
            value = self._call(run.api)
            if inspect.isawaitable(value):
                run.awaited = asyncio.run_coroutine_threadsafe(_awaited(value), self._loop)
                value = run.awaited.result()
            played.value = value
        except BaseException as error:  # noqa: BLE001 - it is what the call raised
            played.error = error
        finally:
            played.ended_s = time.monotonic()
            run.api.stop()
            run.done.set_result(None)
            run.has_sent.set()
            self._progress.step()

    def _result(self, run: _Run) -> Played:
        until_s = run.played.began_s + self._limit_s
        while not run.done.done() and time.monotonic() < until_s:
            wait([run.done], min(_LOOK_S, max(until_s - time.monotonic(), 0)))
            self._progress.show()
        run.is_over = True
        run.played.has_ended = run.done.done()
        if not run.played.has_ended and run.awaited is not None:
            run.awaited.cancel()
            wait([run.done], _CANCELLED_S)
        run.played.requests = tuple(run.api.requests)
        return run.played


async def _awaited(value: Awaitable[object]) -> object:
    return await value


class _Progress:
    """The progress as one line on stderr, if that is a terminal."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended, self._of = 0, 0
        self._begun_s = time.monotonic()
        self._is_shown = False

    def begin(self, more: int) -> None:
        with self._lock:
            self._of += more

    def step(self) -> None:
        with self._lock:
            self._ended += 1

    def show(self) -> None:
        if not sys.stderr.isatty():
            return
        self._is_shown = True
        took_s = time.monotonic() - self._begun_s
        text = f"check_retries: {self._ended} of {self._of} calls have ended, {took_s:.0f} s"
        sys.stderr.write(f"\r{text}\x1b[K")
        sys.stderr.flush()

    def end(self) -> None:
        if self._is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
