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
`entry_points` and `exporter_specs`, which find out by trying.
"""

from __future__ import annotations

import importlib
import os
import threading
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from assisters_otel.api.redaction import shown
from assisters_otel.variables.rules import (
    _BATCH,
    _BATCH_DEFAULT,
    _QUEUE,
    _QUEUE_DEFAULT,
    _SAMPLER,
    _SAMPLER_ARG,
    RATIO_SAMPLERS,
    RULES,
    TRACES,
)
from assisters_otel.variables.values import Rule, _members

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping


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
    with _reading_instead({one.name: one.instead for one in corrections(os.environ)}):
        yield


@contextmanager
def without_opentelemetry_s() -> Iterator[None]:
    """Let the code inside read none of OpenTelemetry's variables."""
    names = [name for name in os.environ if name.startswith("OTEL_")]
    with _reading_instead({**_instead.get(), **dict.fromkeys(names)}):
        yield


@contextmanager
def _reading_instead(instead: Mapping[str, str | None]) -> Iterator[None]:
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
