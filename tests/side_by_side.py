"""Runs the files of tests side by side in forks of one process, which has collected them: --forks.

A worker of pytest-xdist imports and collects all tests by itself: ten seconds of a core each, and
half of that for the quick ones. A fork has them. Each takes one file after the other from a pipe,
in the order of the collection, and sends its reports to the process that has collected. That
process runs no test.

A fork that ends before its time fails the run, and so does one that ends with another code than 0.
What it has left of a file is not run.

Not for macOS, where what the system's libraries have started does not outlive a fork.
"""

from __future__ import annotations

import atexit
import gc
import itertools
import json
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, Final

import coverage
import pytest

_NUMBER: Final = 4
"""Bytes of a file's number in the pipe. So few are read at once, whoever else reads."""

_LOOK_S: Final = 1.0
"""How often is looked whether a fork has ended: what it has started may hold its pipe open."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--forks", type=int, default=0, help="run files side by side in so many forks")


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run what was collected, if forks are asked for."""
    options = session.config.option
    if not options.forks or options.collectonly or session.testsfailed:
        return None  # pytest's own does it
    by_file = itertools.groupby(session.items, lambda item: item.path)
    files = [list(items) for _, items in by_file]
    session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined] # one for all
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.showfspath = False  # it would change with each line
    # A thread would not be there in the forks, and what it holds would stay locked.
    assert threading.active_count() == 1, threading.enumerate()
    sys.stdout.flush()
    sys.stderr.flush()
    gc.collect()
    gc.freeze()  # a collection in a fork would copy all of it
    numbers = _pipe_of_numbers(len(files))
    forks = [_Fork(session, index, numbers, files) for index in range(options.forks)]
    os.close(numbers)
    try:
        _listen(session, forks)
    finally:
        for fork in forks:
            fork.end()
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)
    return True


def _pipe_of_numbers(count: int) -> int:
    """Return the end of a pipe from which each number can be read once, and then its end."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)  # thousands would be too many for it
    os.write(writing, b"".join(number.to_bytes(_NUMBER, "big") for number in range(count)))
    os.close(writing)
    return reading


def _listen(session: pytest.Session, forks: list[_Fork]) -> None:
    """Hand to pytest what the forks report, until all have ended or pytest wants no more."""
    while any(fork.is_running for fork in forks):
        ready = wait([fork.told for fork in forks if fork.is_running], _LOOK_S)
        for fork in forks:
            if fork.told in ready or (fork.is_running and fork.has_ended()):
                fork.take(session)
        if session.shouldfail or session.shouldstop:
            return


class _Fork:
    """A fork, seen from the process that has collected.

    Attributes:
        told: From which its reports are read.
        is_running: False as soon as all of them have been.
    """

    def __init__(
        self, session: pytest.Session, index: int, numbers: int, files: list[list[pytest.Item]]
    ) -> None:
        self.told, telling = Pipe(duplex=False)
        self.is_running = True
        self._test, self._is_complete = "its start", False
        self._code: int | None = None
        self._pid = os.fork()
        if self._pid == 0:
            code = 1
            try:
                self.told.close()
                _work(session, index, numbers, files, telling)
                atexit._run_exitfuncs()
                telling.send_bytes(json.dumps(["end", None]).encode())
                code = 0
            except BaseException:  # noqa: BLE001 - what it is, is told; in a fork nothing goes on
                traceback.print_exc()
            finally:
                with suppress(Exception):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)
        telling.close()

    def has_ended(self) -> bool:
        """Return True if the process has."""
        if self._code is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code is not None

    def take(self, session: pytest.Session) -> None:
        """Hand on what is there to be read. At the end of it, look how the process has ended."""
        hook = session.config.hook
        try:
            while self.told.poll():
                kind, told = json.loads(self.told.recv_bytes())
                if kind == "start":
                    self._test, where = told
                    hook.pytest_runtest_logstart(nodeid=self._test, location=tuple(where))
                elif kind == "finish":
                    hook.pytest_runtest_logfinish(nodeid=told[0], location=tuple(told[1]))
                    self._test = f"what comes after {self._test}"
                elif kind == "end":
                    self._is_complete = True
                else:
                    report = hook.pytest_report_from_serializable(config=session.config, data=told)
                    hook.pytest_runtest_logreport(report=report)
        except (EOFError, OSError):
            if self._code is None:
                self._code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        if self._code is not None and self.is_running:
            self.is_running = False
            if self._code or not self._is_complete:
                self._fail(session)

    def _fail(self, session: pytest.Session) -> None:
        words = f"a fork of the tests has ended with {self._code}, in {self._test}"
        report = pytest.TestReport(
            self._test, ("", None, ""), {}, "failed", words, "call", sections=()
        )
        session.config.hook.pytest_runtest_logreport(report=report)

    def end(self) -> None:
        """End the process, if it still runs."""
        if not self.has_ended():
            os.kill(self._pid, signal.SIGTERM)
            os.waitpid(self._pid, 0)
        self.told.close()


# -- in a fork ---------------------------------------------------------------------------------


class _Reports:
    """Sends what pytest reports in a fork."""

    def __init__(self, telling: Connection, config: pytest.Config) -> None:
        self._telling = telling
        self._config = config

    def _tell(self, kind: str, told: Any) -> None:
        self._telling.send_bytes(json.dumps([kind, told]).encode())

    def pytest_runtest_logstart(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        self._tell("start", [nodeid, location])

    def pytest_runtest_logfinish(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        self._tell("finish", [nodeid, location])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        as_data = self._config.hook.pytest_report_to_serializable
        self._tell("report", as_data(config=self._config, report=report))


def _work(
    session: pytest.Session,
    index: int,
    numbers: int,
    files: list[list[pytest.Item]],
    telling: Connection,
) -> None:
    config = session.config
    plugins = config.pluginmanager
    capture = plugins.get_plugin("capturemanager")
    capture.stop_global_capturing()
    capture.start_global_capturing()  # into files of its own: a fork shares the place in one
    plugins.unregister(name="terminalreporter")
    plugins.register(_Reports(telling, config))
    factory = config._tmp_path_factory  # type: ignore[attr-defined] # as pytest-xdist does
    factory._basetemp = factory.getbasetemp() / f"fork-{index}"
    factory._basetemp.mkdir(mode=0o700)
    try:
        while (number := os.read(numbers, _NUMBER)) and not (
            session.shouldfail or session.shouldstop
        ):
            items = files[int.from_bytes(number, "big")]
            # In place of the next file, which another fork may take: what is the session's stays.
            for item, after in itertools.pairwise([*items, session]):
                config.hook.pytest_runtest_protocol(item=item, nextitem=after)
                if session.shouldfail or session.shouldstop:
                    break
        session._setupstate.teardown_exact(None)
    finally:
        capture.stop_global_capturing()
    measuring = coverage.Coverage.current()
    if measuring is not None:
        measuring.stop()
        measuring.save()
