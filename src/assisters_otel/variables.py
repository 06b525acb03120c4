"""OpenTelemetry's variables: which values are wrong, and what is read in their place.

A wrong value must cost no more than what its variable names. But OpenTelemetry raises for many of
them, and reads some while it is imported (`OTEL_PROPAGATORS`, `OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT`),
where no argument can be passed in the variable's place. So while we import it and have it make
something, it reads what is right:

* `corrections` compares each variable that is set with `RULES`.
* `corrected` lets the code inside it read the corrections. `os.environ` is not written: it gets,
  for that time, a class which looks them up for the current context alone. Other threads, and
  processes that are started meanwhile, read what is set (test_other_threads_read_what_is_set).

What is a registered name that somebody makes something of, a sampler or an exporter, is for
`registered` and `exporters`, which find out by trying.
"""

from __future__ import annotations

import importlib
import math
import os
import re
import threading
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote

# As importlib.metadata's, but read from disk once.
from opentelemetry.util._importlib_metadata import entry_points

from assisters_otel.masking import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

TRACES: Final = "traces"
METRICS: Final = "metrics"
_BOTH: Final = (TRACES, METRICS)

_MAX_WHOLE: Final = 2**31 - 1
"""More than any limit is for. The SDK raises for one that is no index, at every span."""

_MAX_WAIT_S: Final = threading.TIMEOUT_MAX
"""Longer no thread can wait, and one that tries to ends."""

_MAX_TIMEOUT_S: Final = (2**31 - 1) / 1000
"""Longer no socket can wait: poll takes milliseconds in a C int."""

"""Characters of a wrong value that are shown."""

_QUEUE: Final = "OTEL_BSP_MAX_QUEUE_SIZE"
_BATCH: Final = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
_QUEUE_DEFAULT: Final = 2048
_BATCH_DEFAULT: Final = 512
_SAMPLER: Final = "OTEL_TRACES_SAMPLER"
_SAMPLER_ARG: Final = "OTEL_TRACES_SAMPLER_ARG"
RATIO_SAMPLERS: Final = ("traceidratio", "parentbased_traceidratio")
"""The samplers whose argument is a ratio."""


class Rule(NamedTuple):
    """What one variable may hold.

    Attributes:
        read: Gives what is to be read in place of a text: the same if it is right, another if a
            part of it is, None for as if the variable were not set.
        default: What OpenTelemetry takes if the variable is not set.
        write: Says what is right.
        signals: What the variable is for; empty if it is read whatever we export.
        is_secret: True if the value may hold a key.
    """

    read: Callable[[str], str | None]
    default: str
    write: Callable[[], str]
    signals: Collection[str] = ()
    is_secret: bool = False


class Correction(NamedTuple):
    """A variable that is read as something else.

    Attributes:
        name: The variable.
        instead: What is read in its place, or None for as if it were not set.
        text: What is wrong, what is taken and what to write; None if nothing is wrong.
        signals: What it is about, as in `Rule`. The text may quote the value.
    """

    name: str
    instead: str | None
    text: str | None
    signals: Collection[str]


_HEADER: Final = re.compile(
    r"[\w!#$%&'*+.^`|~-]+[ \t]*=[\x20\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*", re.ASCII
)
"""Source: what `opentelemetry.util.re` takes for one."""


def _whole(least: int, default: str, *signals: str, empty_is_right: bool = False) -> Rule:
    def read(text: str) -> str | None:
        if empty_is_right and not text.strip():
            return text
        try:
            return text if least <= int(text) <= _MAX_WHOLE else None
        except ValueError:
            return None

    return Rule(read, default, lambda: f"a whole number from {least} to {_MAX_WHOLE}", signals)


def _duration(
    most: float, unit: str, default: str, *signals: str, may_be_endless: bool = False
) -> Rule:
    def read(text: str) -> str | None:
        try:
            number = float(text)
        except ValueError:
            return None
        if 0 < number <= most or (may_be_endless and number == math.inf):
            return text
        return None

    return Rule(read, default, lambda: f"a number of {unit} above 0", signals)


def _ratio(text: str) -> str | None:
    try:
        return text if 0 <= float(text) <= 1 else None
    except ValueError:
        return None


def _one_of(default: str, *known: str, signals: Collection[str] = ()) -> Rule:
    """What OpenTelemetry compares as it is written, or in one case of letters."""

    def read(text: str) -> str | None:
        name = text.strip().lower()
        return name if name in known else None

    return Rule(read, default, lambda: f"one of {', '.join(known)}", signals)


def _registered(default: str, group: str, *signals: str) -> Rule:
    def read(text: str) -> str | None:
        name = text.strip()
        return name if name in entry_points(group=group).names else None

    def write() -> str:
        known = sorted(entry_points(group=group).names)
        return f"one of {', '.join(known)}" if known else "nothing, for no package brings any"

    return Rule(read, default, write, signals)


def _several(
    default: str, known: Callable[[], Collection[str]], *signals: str, upper: bool = False
) -> Rule:
    def read(text: str) -> str | None:
        names = [name.upper() if upper else name for name in _members(text)]
        return ",".join(name for name in names if name in known()) or None

    return Rule(read, default, lambda: f"some of {', '.join(sorted(known()))}", signals)


def _propagators() -> Collection[str]:
    return {"none", *entry_points(group="opentelemetry_propagator").names}


def _detectors() -> Collection[str]:
    return {"*", "otel", *entry_points(group="opentelemetry_resource_detector").names}


def _grpc_codes() -> Collection[str]:
    # Source: gRPC, "Status codes and their use in gRPC".
    return {
        "ABORTED", "ALREADY_EXISTS", "CANCELLED", "DATA_LOSS", "DEADLINE_EXCEEDED",
        "FAILED_PRECONDITION", "INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND", "OK", "OUT_OF_RANGE",
        "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED", "UNAVAILABLE",
        "UNIMPLEMENTED", "UNKNOWN",
    }  # fmt: skip


def _patterns(text: str) -> str | None:
    """Keep those that are regular expressions, alone and behind those before, as they are read."""
    kept: list[str] = []
    for pattern in _members(text):
        with suppress(re.error, RecursionError, OverflowError):
            re.compile("|".join((*kept, pattern)))
            kept.append(pattern)
    return ",".join(kept) or None


def _pairs(text: str) -> str | None:
    """Keep ``key=value`` that can be encoded: one that cannot loses whole batches."""
    parts = (item.partition("=") for item in _members(text))
    kept = (key + sign + value for key, sign, value in parts if sign and key.strip())
    return ",".join(filter(_is_encodable, kept)) or None


def _headers(text: str) -> str | None:
    """Leave out what is no header, which OpenTelemetry would log whole, or cannot be sent."""

    def may_be_sent(item: str) -> bool:
        value = unquote(item.partition("=")[2]).strip()
        is_header = _HEADER.fullmatch(item) is not None
        return is_header and value.isascii() and value.isprintable()

    items = _members(text)
    kept = list(filter(may_be_sent, items))
    return text if kept == items else ",".join(kept) or None


def _encodable(text: str) -> str | None:
    return text if _is_encodable(text) else text.encode(errors="replace").decode()


def _is_encodable(text: str) -> bool:
    with suppress(UnicodeEncodeError):
        return bool(text.encode())
    return False


def _members(text: str) -> list[str]:
    return [name for name in map(str.strip, text.split(",")) if name]


def _limit(default: str) -> Rule:
    # The SDK takes an empty one for no limit.
    return _whole(0, default, TRACES, empty_is_right=True)


def _or(variable: str, rule: Rule) -> Rule:
    """Let another variable be read where the one of *rule* cannot be."""
    return rule._replace(default=f"{variable}, or {rule.default},")


def _otlp(name: str, rule: Rule, prefix: str = "OTEL_EXPORTER_OTLP_") -> dict[str, Rule]:
    """The common variable, and one for each signal."""
    common = f"{prefix}{name}"
    return {
        common: rule._replace(signals=_BOTH),
        f"{prefix}TRACES_{name}": _or(common, rule)._replace(signals=(TRACES,)),
        f"{prefix}METRICS_{name}": _or(common, rule)._replace(signals=(METRICS,)),
    }


def _credentials(protocol: str) -> dict[str, Rule]:
    rule = _registered("none", "opentelemetry_otlp_credential_provider")
    return _otlp("CREDENTIAL_PROVIDER", rule, f"OTEL_PYTHON_EXPORTER_OTLP_{protocol}_")


_SWITCH: Final = _one_of("false", "true", "false")
_PATTERN: Final = Rule(
    _patterns, "none", lambda: "regular expressions with commas between them, 'healthz,/internal/'"
)

RULES: Final[Mapping[str, Rule]] = {
    # The API, and what is read whatever we export.
    "OTEL_PROPAGATORS": _several("tracecontext,baggage", _propagators),
    "OTEL_PYTHON_CONTEXT": _registered("contextvars_context", "opentelemetry_context"),
    "OTEL_SDK_DISABLED": _SWITCH,
    # HTTP instrumentation.
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST": _PATTERN,
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_RESPONSE": _PATTERN,
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS": _PATTERN,
    "OTEL_PYTHON_AIOHTTP_CLIENT_EXCLUDED_URLS": _or("OTEL_PYTHON_EXCLUDED_URLS", _PATTERN),
    "OTEL_PYTHON_EXCLUDED_URLS": _PATTERN,
    "OTEL_PYTHON_HTTPX_EXCLUDED_URLS": _or("OTEL_PYTHON_EXCLUDED_URLS", _PATTERN),
    "OTEL_PYTHON_REQUESTS_EXCLUDED_URLS": _or("OTEL_PYTHON_EXCLUDED_URLS", _PATTERN),
    # Both providers.
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": _several("otel", _detectors, *_BOTH),
    "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": _SWITCH._replace(signals=_BOTH),
    "OTEL_RESOURCE_ATTRIBUTES": Rule(
        _pairs, "none", lambda: "'key=value' with commas between them, in UTF-8", _BOTH
    ),
    "OTEL_SERVICE_NAME": Rule(
        _encodable, "unknown_service", lambda: "the service's name, 'checkout', in UTF-8", _BOTH
    ),
    "OTEL_PYTHON_LOGGER_CONFIGURATOR": _registered(
        "none", "_opentelemetry_logger_configurator", *_BOTH
    ),
    # The tracer provider.
    "OTEL_ATTRIBUTE_COUNT_LIMIT": _limit("128"),
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": _limit("no limit"),
    "OTEL_BSP_EXPORT_TIMEOUT": _whole(0, "30000", TRACES),
    _BATCH: _whole(1, str(_BATCH_DEFAULT), TRACES),
    _QUEUE: _whole(1, str(_QUEUE_DEFAULT), TRACES),
    "OTEL_BSP_SCHEDULE_DELAY": _whole(1, "5000", TRACES),
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": _limit("128"),
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": _limit("128"),
    "OTEL_PYTHON_TRACER_PROVIDER": _registered(
        "a provider of ours", "opentelemetry_tracer_provider", TRACES
    ),
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": _limit("128"),
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": _limit("no limit"),
    "OTEL_SPAN_EVENT_COUNT_LIMIT": _limit("128"),
    "OTEL_SPAN_LINK_COUNT_LIMIT": _limit("128"),
    _SAMPLER_ARG: Rule(_ratio, "1.0", lambda: "a number from 0 to 1", (TRACES,)),
    # The meter provider.
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": _one_of(
        "explicit_bucket_histogram",
        "explicit_bucket_histogram", "base2_exponential_bucket_histogram",
        signals=(METRICS,),
    ),
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": _one_of(
        "cumulative", "cumulative", "delta", "lowmemory", signals=(METRICS,)
    ),
    "OTEL_EXPORTER_PROMETHEUS_PORT": _whole(0, "9464", METRICS),
    "OTEL_METRICS_EXEMPLAR_FILTER": _one_of(
        "trace_based", "trace_based", "always_on", "always_off", signals=(METRICS,)
    ),
    "OTEL_METRIC_EXPORT_INTERVAL": _duration(
        _MAX_WAIT_S * 1000, "milliseconds", "60000", METRICS, may_be_endless=True
    ),
    "OTEL_METRIC_EXPORT_TIMEOUT": _duration(_MAX_WAIT_S * 1000, "milliseconds", "30000", METRICS),
    "OTEL_PYTHON_METER_PROVIDER": _registered(
        "a provider of ours", "opentelemetry_meter_provider", METRICS
    ),
    # OTLP.
    **_otlp("COMPRESSION", _one_of("none", "none", "gzip", "deflate")),
    # But for its files, which `tls_files` looks at as they are used: they may come late.
    **_otlp("HEADERS", Rule(_headers, "none", lambda: "name=value,name=value", is_secret=True)),
    **_otlp("INSECURE", _SWITCH),
    **_otlp("PROTOCOL", _one_of("http/protobuf", "http/protobuf", "grpc")),
    **_otlp("TIMEOUT", _duration(_MAX_TIMEOUT_S, "seconds", "10")),
    **_credentials("GRPC"),
    **_credentials("HTTP"),
    "OTEL_PYTHON_EXPORTER_OTLP_GRPC_RETRYABLE_ERROR_CODES": _several(
        "those of the specification", _grpc_codes, *_BOTH, upper=True
    ),
}  # fmt: skip
"""The variables that OpenTelemetry reads when we import it or have it make something, and for whose
wrong values it raises, ends a thread, loses what it exports, or says something of its own."""

_READ_AT_IMPORT: Final = {
    "OTEL_PROPAGATORS": "opentelemetry.propagate",
    "OTEL_PYTHON_CONTEXT": "opentelemetry.context",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "opentelemetry.sdk.trace",
}
"""Which module reads a variable while it is imported."""


def corrections(
    environ: Mapping[str, str], names: Collection[str] | None = None
) -> tuple[Correction, ...]:
    """Find what is wrong.

    Args:
        environ: The variables.
        names: Those that are looked at; all of `RULES` by default.
    """
    found = {}
    for name in sorted(RULES.keys() & set(environ)):
        rule, text = RULES[name], environ[name]
        if not (names is None or name in names):
            continue
        if name == _SAMPLER_ARG and environ.get(_SAMPLER, "").strip() not in RATIO_SAMPLERS:
            continue
        instead = rule.read(text)
        if instead != text:
            found[name] = Correction(name, instead, _told(name, text, instead, rule), rule.signals)
    if names is None:
        found.update(_batch(environ, found))
    return tuple(found.values())


def _told(name: str, text: str, instead: str | None, rule: Rule) -> str | None:
    # Empty is as good as not set. Blanks and letters' case are put right without a word.
    if _members((instead or "").lower()) == _members(text.lower()) or not text.strip():
        return None
    quoted = "" if rule.is_secret else f"={shown(text)}"
    taken = rule.default if instead is None else shown(instead)
    taken = "what can be" if rule.is_secret and instead is not None else taken
    return f"{name}{quoted} cannot be used, {taken} is taken instead. Write {rule.write()}"


def _batch(environ: Mapping[str, str], found: Mapping[str, Correction]) -> dict[str, Correction]:
    """Bring the batch down to the queue: the SDK refuses one that is larger."""

    def size(name: str, default: int) -> int:
        text = found[name].instead if name in found else environ.get(name)
        return default if text is None else int(text)

    queue, batch = size(_QUEUE, _QUEUE_DEFAULT), size(_BATCH, _BATCH_DEFAULT)
    if batch <= queue:
        return {}
    named = f"{_QUEUE}={queue}" if _QUEUE in environ else f"{_BATCH}={batch}"
    told = (
        f"{named} cannot be used, for a batch of {batch} spans is more than a queue of {queue}: "
        f"batches of {queue} are taken instead. Write {_BATCH}={queue}, or {_QUEUE}={batch}"
    )
    return {_BATCH: Correction(_BATCH, str(queue), told, (TRACES,))}


# -- reading ---------------------------------------------------------------------------------

_NOTHING: Final[Mapping[str, str | None]] = MappingProxyType({})
_instead: Final = ContextVar("assisters_otel-variables", default=_NOTHING)


class _Corrected(type(os.environ)):  # type: ignore[misc] # its class has no public name
    """`os.environ`, of which the current context reads `_instead`."""

    def __getitem__(self, name: str) -> str:
        instead = _instead.get()
        if name not in instead:
            return super().__getitem__(name)  # type: ignore[no-any-return] # as above
        text = instead[name]
        if text is None:
            raise KeyError(name)
        return text

    def __iter__(self) -> Iterator[str]:
        instead = _instead.get()
        return (name for name in super().__iter__() if instead.get(name, "") is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Reading:
    """Gives `os.environ` that class for as long as anybody is inside `corrected`."""

    def __init__(self) -> None:
        self._environ = os.environ
        self._class = type(os.environ)
        self._lock = threading.RLock()
        self._inside = 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def begin(self) -> None:
        """Count who is inside."""
        with self._lock:
            self._inside += 1
            self._put(_Corrected)

    def end(self) -> None:
        """Count who leaves; the last one puts the class back."""
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._put(self._class)

    def _put(self, kind: type) -> None:
        with suppress(TypeError):  # the app has put another object in its place
            self._environ.__class__ = kind

    def _forked(self) -> None:
        # Of those who were inside, the child has one at most: the thread that forked.
        self._lock = threading.RLock()
        if self._inside:
            self._inside = 1
            if not _instead.get():
                self.end()


_reading: Final = _Reading()


@contextmanager
def corrected() -> Iterator[None]:
    """Let the code inside read what is right in place of what is wrong. Also a decorator."""
    instead = {one.name: one.instead for one in corrections(os.environ)}
    if not instead:
        yield
        return
    token = _instead.set(instead)
    _reading.begin()
    try:
        yield
    finally:
        _reading.end()
        _instead.reset(token)


def import_opentelemetry() -> None:
    """Import what reads a variable while it is imported, if that one is wrong."""
    wrong = corrections(os.environ, _READ_AT_IMPORT)
    if wrong:
        with corrected():
            for one in wrong:
                importlib.import_module(_READ_AT_IMPORT[one.name])
