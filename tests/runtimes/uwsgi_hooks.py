"""A site with functions of its own for the start and the end of uWSGI's workers."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import uwsgi

import assisters_otel

SAID = Path(os.environ["SAID"])
CASE = os.environ["CASE"]


def say(what: str) -> None:
    with SAID.open("a") as file:
        file.write(f"{what}\n")


def names() -> list[str]:
    return sorted(vars(uwsgi).keys() & {"post_fork_hook", "atexit"})


def shut_down() -> None:
    """Shut down, and wait for the threads: what one holds as uWSGI forks, is held in the worker."""
    handle.shutdown()
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(30)


def own_start() -> None:
    say(f"starts, fork seen: {os.getpid() in seen}")


def own_end() -> None:
    say("ends")


seen: list[int] = []
os.register_at_fork(after_in_child=lambda: seen.append(os.getpid()))

if CASE == "set before":
    uwsgi.post_fork_hook, uwsgi.atexit = own_start, own_end
if CASE == "decorated before":
    import uwsgidecorators

    uwsgidecorators.postfork(own_start)
before = names(), [vars(uwsgi).get(name) for name in names()]

handle = assisters_otel.init("site")

if CASE == "decorated after":
    import uwsgidecorators

    uwsgidecorators.postfork(own_start)
if CASE == "shut down":
    assert names() == ["atexit", "post_fork_hook"]
    shut_down()
    assert before == (names(), []) == ([], [])
    uwsgi.post_fork_hook = own_start
if CASE == "shut down under decorators":
    import uwsgidecorators

    assert len(uwsgidecorators.postfork_chain) == 1
    shut_down()
    assert uwsgidecorators.postfork_chain == []
    uwsgidecorators.postfork(own_start)


def wsgi(_environ: Any, start_response: Any) -> list[bytes]:
    assert "uwsgi" in sys.modules
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]
