"""Checks the process that `doctor` runs in.

Under ``opentelemetry-instrument`` that process is set up as the app's is.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections import Counter
from importlib.util import find_spec
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import metrics, trace
from opentelemetry.environment_variables import OTEL_METRICS_EXPORTER, OTEL_TRACES_EXPORTER

from assisters_otel import config
from assisters_otel.cli.doctor.finding import Finding
from assisters_otel.otel_api import providers
from assisters_otel.semconv import environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ZERO_CODE: Final = "zero-code"
PATCHES: Final = "patches"
_ENTRY_POINT: Final = "assisters"
"""The name of the library's entry point."""

_AUTO: Final = "opentelemetry.instrumentation.auto_instrumentation"
_DISTRO: Final = "opentelemetry.distro"
_SEND_METHODS: Final = {
    "httpx": ("HTTPTransport.handle_request", "AsyncHTTPTransport.handle_async_request"),
    "httpx2": ("HTTPTransport.handle_request", "AsyncHTTPTransport.handle_async_request"),
    "requests": ("Session.send",),
    "aiohttp": ("ClientSession._request",),
}
"""The methods that instrumentations of HTTP clients wrap."""


def is_zero_code() -> bool:
    """Return True if this process was started by ``opentelemetry-instrument``."""
    return _AUTO in sys.modules


def check_process(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Check the providers of ``opentelemetry-instrument``, and which code patched the clients.

    Args:
        environ: The environment variables.

    Yields:
        The findings.
    """
    yield from _zero_code(environ)
    yield from _patches()


def _zero_code(environ: Mapping[str, str]) -> Iterator[Finding]:
    off = config.disabled_instrumentations(environ) & {_ENTRY_POINT, "*"}
    if off:
        variable, name = environment.OTEL_DISABLED_INSTRUMENTATIONS, min(off)
        yield Finding(
            ZERO_CODE, False,
            f"{variable} has {name}: nothing is watched, by opentelemetry-instrument or init()",
            f"Take {name} out of {variable}.",
        )  # fmt: skip
        return
    if not is_zero_code():
        missing = "" if find_spec(_DISTRO) else ", and needs assisters-otel[auto] for its providers"
        text = f"not under opentelemetry-instrument{missing}; init() builds what is missing"
        yield Finding(ZERO_CODE, True, text)
        return
    lacking = [
        f"no {what} provider"
        for what, variable, provider in (
            ("tracer", OTEL_TRACES_EXPORTER, trace.get_tracer_provider()),
            ("meter", OTEL_METRICS_EXPORTER, metrics.get_meter_provider()),
        )
        if environ.get(variable) != "none" and _is_missing(provider)
    ]
    if lacking:
        yield Finding(
            ZERO_CODE, False, f"opentelemetry-instrument has set {' and '.join(lacking)}",
            "pip install 'assisters-otel[auto]'",
        )  # fmt: skip
    else:
        yield Finding(ZERO_CODE, True, "opentelemetry-instrument has set the providers")


def _is_missing(provider: object) -> bool:
    """Return True if the provider records nothing."""
    nothing = metrics.NoOpMeterProvider, trace.NoOpTracerProvider
    return isinstance(provider, nothing) or providers.is_stand_in(provider)


def _patches() -> Iterator[Finding]:
    """Check that no client makes two spans of one request."""
    doubled = False
    for module, paths in _SEND_METHODS.items():
        if find_spec(module) is None:
            continue
        counts = Counter(name for path in paths for name in _patched_by(module, path))
        once = len(paths)
        for name, count in counts.items():
            if count > once:
                doubled = True
                yield Finding(
                    PATCHES, False, f"{module} is patched {count // once} times by {name}",
                    "Switch that instrumentation on once: each patch is a span of its own.",
                )  # fmt: skip
        if len(counts) > 1:
            doubled = True
            yield Finding(
                PATCHES, False, f"{module} is patched by {' and '.join(sorted(counts))}",
                "Keep one of them: each makes a span of every request.",
            )  # fmt: skip
    if not doubled:
        yield Finding(PATCHES, True, "no client is patched twice in this process")


def _patched_by(module: str, path: str) -> Iterator[str]:
    """Yield the module of each wrapper around a method, the outermost first.

    The library's own wrappers are left out, and the client's.

    Args:
        module: The client.
        path: The class and the method.
    """
    owner, _, name = path.rpartition(".")
    function: Any = vars(attrgetter(owner)(importlib.import_module(module)))[name]
    while hasattr(function, "__wrapped__"):
        by: Any = getattr(function, "_self_wrapper", function)  # of wrapt; else a plain function
        while isinstance(by, functools.partial):
            by = by.func
        made_in = str(getattr(getattr(by, "__func__", by), "__globals__", {}).get("__name__"))
        if not made_in.startswith("assisters_otel") and made_in.partition(".")[0] != module:
            yield made_in
        function = function.__wrapped__
