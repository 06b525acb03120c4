"""OpenTelemetry's variables: which values are wrong, and what is read in their place.

A wrong value must cost no more than what its variable configures. But OpenTelemetry raises for many
wrong values. It reads some variables while it is imported (`OTEL_PROPAGATORS`,
`OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT`), where no argument can replace them. So OpenTelemetry has to read
corrected values while the library imports it and creates its objects.

How it works.

* `corrections` compares each variable that is set with its rule in `RULES`.
* `corrected` is a context in which `os.environ` returns the corrected values. The environment is
  not written. Instead `os.environ` gets another class for that time, `_CorrectedEnviron`, which
  looks a variable up in the corrections of the current context first.
* Other threads have no corrections in their context, and processes that are started meanwhile
  inherit the real environment. Both read what is set (test_other_threads_read_what_is_set).
* Several threads may be inside `corrected` at once. `_ClassSwitch` counts them, and the last one
  restores the class. After a fork at most the forking thread is inside.

The name of a registered sampler or exporter has no rule, because only its own factory knows which
arguments it accepts. `entry_points` and `exporter_specs` try it and handle the exception.
"""

from __future__ import annotations

import importlib
import os
import threading
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from assisters_otel.api.redaction import shown
from assisters_otel.records import Record
from assisters_otel.variables.rules import (
    BATCH_SIZE,
    BATCH_SIZE_DEFAULT,
    QUEUE_SIZE,
    QUEUE_SIZE_DEFAULT,
    RATIO_SAMPLERS,
    RULES,
    SAMPLER,
    SAMPLER_ARG,
    TRACES,
)
from assisters_otel.variables.values import Rule, members

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping


class Correction(Record):
    """A variable whose value is read as another one.

    Attributes:
        name: The variable's name.
        replacement: The text that is read in place of the value. None if the variable is read as
            not set.
        text: A message with the wrong value, the value that is used, and a right one. It may quote
            a secret. None if the two values mean the same, so that no warning is due.
        signals: The signals that the variable configures, as in `Rule`.
    """

    name: str
    replacement: str | None
    text: str | None
    signals: Collection[str]


_READ_AT_IMPORT: Final = {
    "OTEL_PROPAGATORS": "opentelemetry.propagate",
    "OTEL_PYTHON_CONTEXT": "opentelemetry.context",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "opentelemetry.sdk.trace",
}
"""The variables that OpenTelemetry reads while it is imported, with the module that reads each."""


def corrections(
    environ: Mapping[str, str], names: Collection[str] | None = None
) -> tuple[Correction, ...]:
    """Return a correction for each variable whose value has to be replaced.

    Args:
        environ: The environment.
        names: The variables to check. By default all of `RULES`.
    """
    found = {}
    for name in sorted(RULES.keys() & set(environ)):
        rule, text = RULES[name], environ[name]
        if not (names is None or name in names):
            continue
        if name == SAMPLER_ARG and environ.get(SAMPLER, "").strip() not in RATIO_SAMPLERS:
            continue
        replacement = rule.read(text)
        if replacement != text:
            message = _message(name, text, replacement, rule)
            found[name] = Correction(name, replacement, message, rule.signals)
    if names is None:
        found.update(_batch_within_queue(environ, found))
    return tuple(found.values())


def _message(name: str, text: str, replacement: str | None, rule: Rule) -> str | None:
    # An empty value means not set. Blanks and the case of letters are corrected without a message.
    if members((replacement or "").lower()) == members(text.lower()) or not text.strip():
        return None
    quoted = "" if rule.is_secret else f"={shown(text)}"
    taken = rule.default if replacement is None else shown(replacement)
    taken = "what can be" if rule.is_secret and replacement is not None else taken
    return f"{name}{quoted} cannot be used, {taken} is taken instead. Write {rule.write()}"


def _batch_within_queue(
    environ: Mapping[str, str], found: Mapping[str, Correction]
) -> dict[str, Correction]:
    """Return a correction if a batch is larger than the queue, which the SDK refuses."""

    def size(name: str, default: int) -> int:
        text = found[name].replacement if name in found else environ.get(name)
        return default if text is None else int(text)

    queue, batch = size(QUEUE_SIZE, QUEUE_SIZE_DEFAULT), size(BATCH_SIZE, BATCH_SIZE_DEFAULT)
    if batch <= queue:
        return {}
    named = f"{QUEUE_SIZE}={queue}" if QUEUE_SIZE in environ else f"{BATCH_SIZE}={batch}"
    message = (
        f"{named} cannot be used, for a batch of {batch} spans is more than a queue of {queue}: "
        f"batches of {queue} are taken instead. Write {BATCH_SIZE}={queue}, or {QUEUE_SIZE}={batch}"
    )
    return {BATCH_SIZE: Correction(BATCH_SIZE, str(queue), message, (TRACES,))}


# -- reading ---------------------------------------------------------------------------------

_NOTHING: Final[Mapping[str, str | None]] = MappingProxyType({})
_replacements: Final = ContextVar("assisters_otel-variables", default=_NOTHING)


class _CorrectedEnviron(type(os.environ)):  # type: ignore[misc] # its class has no public name
    """The class of `os.environ` while a thread is inside `corrected`."""

    def __getitem__(self, name: str) -> str:
        replacements = _replacements.get()
        if name not in replacements:
            return super().__getitem__(name)  # type: ignore[no-any-return] # as above
        text = replacements[name]
        if text is None:
            raise KeyError(name)
        return text

    def __iter__(self) -> Iterator[str]:
        replacements = _replacements.get()
        return (name for name in super().__iter__() if replacements.get(name, "") is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _ClassSwitch:
    """Sets the class of `os.environ` to `_CorrectedEnviron`, and restores it."""

    def __init__(self) -> None:
        self._environ = os.environ
        self._class = type(os.environ)
        self._lock = threading.RLock()
        self._inside = 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def enter(self) -> None:
        """Count one more inside, and set the class."""
        with self._lock:
            self._inside += 1
            self._set_class(_CorrectedEnviron)

    def leave(self) -> None:
        """Count one less inside. The last one restores the class."""
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._set_class(self._class)

    def _set_class(self, kind: type) -> None:
        with suppress(TypeError):  # the app has replaced `os.environ` by an object of another class
            self._environ.__class__ = kind

    def _forked(self) -> None:
        # The child has the forking thread alone, so at most one is inside.
        self._lock = threading.RLock()
        if self._inside:
            self._inside = 1
            if not _replacements.get():
                self.leave()


_class_switch: Final = _ClassSwitch()


@contextmanager
def corrected() -> Iterator[None]:
    """Run the code inside with corrected variables in `os.environ`. Also usable as a decorator."""
    with _replaced({one.name: one.replacement for one in corrections(os.environ)}):
        yield


@contextmanager
def without_opentelemetry_variables() -> Iterator[None]:
    """Run the code inside without any of OpenTelemetry's variables in `os.environ`."""
    names = [name for name in os.environ if name.startswith("OTEL_")]
    with _replaced({**_replacements.get(), **dict.fromkeys(names)}):
        yield


@contextmanager
def _replaced(replacements: Mapping[str, str | None]) -> Iterator[None]:
    if not replacements:
        yield
        return
    token = _replacements.set(replacements)
    _class_switch.enter()
    try:
        yield
    finally:
        _class_switch.leave()
        _replacements.reset(token)


def import_opentelemetry() -> None:
    """Import the modules that read a variable while they are imported, if its value is wrong."""
    wrong = corrections(os.environ, _READ_AT_IMPORT)
    if wrong:
        with corrected():
            for one in wrong:
                importlib.import_module(_READ_AT_IMPORT[one.name])
