"""uWSGI: a worker starts with a fork that Python does not see, and may end without `atexit`.

uWSGI forks in C, after it has loaded the app or, with ``lazy-apps``, before. CPython asks C code
that forks to call ``PyOS_AfterFork_Child`` in the child. uWSGI does so only with an option:
``py-call-uwsgi-fork-hooks``, or ``py-call-osafterfork``, which ends every worker of CPython 3.13.
Without the call no function of `os.register_at_fork` runs in a worker. Then the worker has no
thread that exports metrics. Its ``service.instance.id`` is that of every other worker. Its exit
waits 30 s for a thread that is not there. So the library makes the call, by the hook that uWSGI
runs first in each worker.

With ``skip-atexit-teardown`` a worker ends without Python's `atexit`. So it is flushed by
``uwsgi.atexit``, which uWSGI calls in any case. A worker that is busy, or in a mode with
``async`` or ``gevent``, ends without either: what is queued there is lost.

The app may use the same hooks. A hook that is set already is called as well, and one that is added
by ``uwsgidecorators.postfork`` too. An app that assigns ``uwsgi.post_fork_hook`` after `init`
replaces the library's hook.

Source: uWSGI 2.0.31, ``plugins/python/python_plugin.c``; CPython, ``PyOS_AfterFork_Child``.
"""

from __future__ import annotations

import _imp
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from assisters_otel import logger
from assisters_otel.clients.import_hooks import imports
from assisters_otel.fail_safe import fail_safe
from assisters_otel.process import PROCESS

if TYPE_CHECKING:
    from collections.abc import Callable

_MODULE: Final = "uwsgi"
_DECORATORS: Final = "uwsgidecorators"
_AFTER_FORK: Final = "post_fork_hook"
_AT_EXIT: Final = "atexit"

_CALLS_IT_LATER: Final = "python-worker-override"
"""The option with which uWSGI itself makes the call, after the hook. A second call would be made
while threads run, which CPython forbids."""

_SKIPS_ATEXIT: Final = "skip-atexit-teardown"


class _SeenForks:
    """The forks that Python has seen.

    Attributes:
        pid: The process that was created by the last of them.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self.pid = os.getpid()


_seen: Final = _SeenForks()


@fail_safe
def _forked() -> None:
    """Run what Python has to run after a fork, in a worker of uWSGI that has just started."""
    if _seen.pid == os.getpid() or PROCESS.instrumentation is None or _has_option(_CALLS_IT_LATER):
        return
    if _has_started_threads():
        logger.warning(
            "uWSGI has forked without telling Python, and a thread was started before the library "
            "could do so: metrics of this worker are lost. Set py-call-uwsgi-fork-hooks = true in "
            "uWSGI's configuration"
        )
        return
    # An optional module of the standard library, which only this needs.
    import ctypes  # noqa: PLC0415

    # ``os.fork`` takes the import lock, and the call releases it. If it is not held, CPython 3.13
    # ends the process, and up to 3.12 an import that is under way loses it.
    _imp.acquire_lock()
    # A function of its own: the attributes of `ctypes.pythonapi` are shared with the app.
    ctypes.PYFUNCTYPE(None)(("PyOS_AfterFork_Child", ctypes.pythonapi))()


def _has_started_threads() -> bool:
    """Return True if a thread runs that this process has started. False where there is no /proc.

    The objects of the parent's threads are here as well, and look alive. Only those of this process
    have a task of the kernel.
    """
    others = (one for one in threading.enumerate() if one is not threading.current_thread())
    return any(os.path.exists(f"/proc/self/task/{one.native_id}") for one in others)  # noqa: PTH110 - pathlib would be imported


@fail_safe
def _flush() -> None:
    if _has_option(_SKIPS_ATEXIT):
        PROCESS.flush_at_end()


def _has_option(name: str) -> bool:
    return name in getattr(sys.modules.get(_MODULE), "opt", ())


class UwsgiHooks:
    """The functions that uWSGI calls in each worker, at its start and at its end."""

    def __init__(self) -> None:
        """Create the hooks without installing them."""
        self._installed: list[Callable[[], None]] = []

    def apply(self) -> None:
        """Install the hooks if uWSGI runs this process. It adds its module without an import."""
        imports.watch(_MODULE, self, is_added=True)
        imports.watch(_DECORATORS, self)

    @fail_safe
    def undo(self) -> None:
        """Remove the hooks."""
        imports.forget(self)
        removals, self._installed = self._installed, []
        for remove in reversed(removals):
            _run(remove)

    @fail_safe
    def imported(self, module: Any, name: str) -> None:
        """Install the hooks in *module*, which has just been imported as *name*."""
        if name == _DECORATORS:
            # The module has replaced the hook by one that calls the functions in this list.
            chain = module.postfork_chain
            chain.insert(0, _forked)
            self._installed.append(lambda: chain.remove(_forked))
            return
        self._installed.append(_chain(module, _AFTER_FORK, _forked, is_first=True))
        self._installed.append(_chain(module, _AT_EXIT, _flush, is_first=False))
        _forked()  # with `lazy-apps` this is a worker already


@fail_safe
def _run(remove: Callable[[], None]) -> None:
    remove()


def _chain(
    module: Any, name: str, ours: Callable[[], object], *, is_first: bool
) -> Callable[[], None]:
    """Set a hook of uWSGI that calls a function beside the one that is set already.

    Args:
        module: The module `uwsgi`.
        name: The hook.
        ours: The library's function.
        is_first: True if it is called before the other one.

    Returns:
        A function that restores the hook, if no other has been set since.
    """
    other = getattr(module, name, None)

    def hook() -> None:
        if is_first:
            ours()
        try:
            if other is not None:
                other()
        finally:
            if not is_first:
                ours()

    def remove() -> None:
        if getattr(module, name, None) is not hook:
            return
        if other is None:
            delattr(module, name)
        else:
            setattr(module, name, other)

    setattr(module, name, hook)
    return remove
