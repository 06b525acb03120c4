"""What a process has once, and a test may leave changed to the next ones: held after each module.

Which modules share a process, and in which order, is another on each machine. What one leaves
fails another one there, now and then. So the module that leaves it fails, wherever it runs.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Final

import pytest
from opentelemetry import metrics, propagate, trace
from opentelemetry.util._once import Once

from assisters_otel.attempts.control_flow import units
from assisters_otel.process import PROCESS
from assisters_otel.semconv.attributes import SCOPE

if TYPE_CHECKING:
    from collections.abc import Iterator

METHODS: Final = (
    ("aiohttp", "ClientSession._request"),
    ("aiohttp.client_reqrep", "ClientRequest.send"),
    ("aiohttp.client_reqrep", "ClientResponse.start"),
    ("aiohttp.connector", "BaseConnector.connect"),
    ("assisters", "Assisters._request"),
    ("assisters", "Assisters._stream"),
    ("httpx", "AsyncHTTPTransport.handle_async_request"),
    ("httpx", "HTTPTransport.handle_request"),
    ("httpx2", "AsyncHTTPTransport.handle_async_request"),
    ("httpx2", "HTTPTransport.handle_request"),
    ("openai", "AsyncOpenAI.request"),
    ("openai", "OpenAI.request"),
    ("openai._base_client", "AsyncAPIClient.request"),
    ("openai._base_client", "SyncAPIClient.request"),
    ("requests", "Session.send"),
    ("requests.adapters", "HTTPAdapter.send"),
    ("urllib3.connectionpool", "HTTPConnectionPool.urlopen"),
    ("urllib3.util.retry", "Retry.increment"),
)
"""What the library wraps, and the instrumentations of others."""

_OF_PYTEST: Final = "PYTEST_CURRENT_TEST"


def state() -> dict[str, Any]:
    """Return what there is once, by a name for it."""
    found: dict[str, Any] = {
        f"context variable {variable.name}": value
        for variable, value in copy_context().items()
        if value and _is_shared(variable)
    }
    found |= {
        f"variable {name}": value
        for name, value in os.environ.items()
        if name != _OF_PYTEST and not name.startswith("COVERAGE_")
    }
    found |= {
        f"{module}.{path}": _in_class(module, path)
        for module, path in METHODS
        if module in sys.modules
    }
    for name in (None, SCOPE):
        logger = logging.getLogger(name)
        where = f"logger {name}"
        found |= {
            f"{where}: level": logger.level,
            f"{where}: propagate": logger.propagate,
            f"{where}: disabled": logger.disabled,
            f"{where}: handlers": [one for one in logger.handlers if not _is_of_pytest(one)],
            f"{where}: filters": list(logger.filters),
        }
    return found | {
        "logging.disable": logging.root.manager.disable,
        "log record factory": logging.getLogRecordFactory(),
        "the propagator": propagate.get_global_textmap(),
        "the handle of init": PROCESS.current,
        "the instrumentation": PROCESS.instrumentation,
        "running units of work": units._running,
        "the profiler": sys.getprofile(),
        "threading.excepthook": threading.excepthook,
        "sys.path": list(sys.path),
        "sys.meta_path": [one for one in sys.meta_path if _is_of_a_hook(one)],
        "the working folder": os.getcwd(),  # noqa: PTH109 - as it is
        **{f"the handler of {name}": signal.getsignal(getattr(signal, name))
           for name in ("SIGINT", "SIGTERM", "SIGALRM") if hasattr(signal, name)},
    }  # fmt: skip


def _is_shared(variable: ContextVar[Any]) -> bool:
    """Return True if it is OpenTelemetry's or the library's, and not of an object of one test."""
    if variable.name == units._entered.name:
        return variable is units._entered
    return variable.name == "current_context" or variable.name.startswith("assisters")


def _in_class(module: str, path: str) -> str:
    """Return which object it is, and no reference: `init` looks for those."""
    owner, _, method = path.partition(".")
    return repr(vars(getattr(sys.modules[module], owner)).get(method))


def _is_of_a_hook(finder: object) -> bool:
    """Return True if it waits for an import, and is not what some package brings."""
    return type(finder).__module__.startswith(("assisters_otel", "wrapt"))


def _is_of_pytest(handler: logging.Handler) -> bool:
    return type(handler).__module__.startswith("_pytest")


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return what is another than before, or is not there any more, or is new.

    But a method of a module that was imported meanwhile.
    """
    imported = {f"{module}.{path}" for module, path in METHODS} - before.keys()
    return [
        f"{name}: {before.get(name)} -> {after.get(name)}"
        for name in sorted(before.keys() | after.keys() - imported)
        if not _are_the_same(before.get(name), after.get(name))
    ]


def _are_the_same(one: object, other: object) -> bool:
    return one is other or (type(one) is type(other) and one == other)


def _forget_global_providers() -> None:
    """Let the next module set them. OpenTelemetry takes them once in a process."""
    trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE = None, Once()
    inner = metrics._internal
    inner._METER_PROVIDER, inner._METER_PROVIDER_SET_ONCE = None, Once()
    inner._PROXY_METER_PROVIDER = inner._ProxyMeterProvider()


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Set up before all else of a module, so it looks after all else has ended."""
    before, excepthook = state(), sys.excepthook
    yield
    _forget_global_providers()
    sys.excepthook = excepthook  # typer sets its own, for good, when a command is run in here
    left = differences(before, state())
    if left:
        pytest.fail("left behind:\n" + "\n".join(left))
