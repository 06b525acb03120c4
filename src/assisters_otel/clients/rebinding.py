"""Replaces a function in what other libraries keep of it.

* OpenTelemetry's `instrument_client` leaves a layer of wrapt on a client's transport, around the
  bound method of that time. The function that logfire's `instrument_openai` leaves on a client
  holds the bound method in its closure. Nothing lists these holders but the garbage collector.
* logfire's `instrument_openai` and OpenInference's instrumentor of `openai` keep the method that
  they wrap, and put it back when they are switched off. Where they came before `init`, that is the
  SDK's own, and the library's function would be gone from then on.
"""

from __future__ import annotations

import gc
import sys
from contextlib import suppress
from types import CellType, MethodType
from typing import Any, Final

import wrapt

from assisters_otel.records import Record

# The references to a function that only its class holds: the class, the caller's variable, and the
# argument of `sys.getrefcount`.
OWN_REFERENCES: Final = 3

_LOGFIRE_KEEPS: Final = "_original_request_method"
"""The attribute of a client, or of its class, that logfire puts back."""

_INSTRUMENTOR: Final = ("openinference.instrumentation.openai", "OpenAIInstrumentor")
_INSTRUMENTOR_KEEPS: Final = ("_original_request", "_original_async_request")
"""The module and the class of OpenInference's instrumentor, and what it puts back."""


class Replaced(Record):
    """A function that was replaced in its class, and is held by others.

    Attributes:
        owner: The class.
        before: The function.
        now: The function in its place.
    """

    owner: type
    before: Any
    now: Any


def rebind(replaced: list[Replaced]) -> None:
    """Replace functions in all that other libraries keep of them."""
    if not replaced:
        return
    for owner, before, now in replaced:
        if vars(owner).get(_LOGFIRE_KEEPS) is before:
            setattr(owner, _LOGFIRE_KEEPS, now)
    # One search for all the functions: it visits each object of the process.
    holders = gc.get_referrers(*(one.before for one in replaced))
    by_function = {id(one.before): one for one in replaced}
    _rebind_instrumentors(holders, by_function)
    _rebind_bound_methods(holders, by_function)


def _rebind_instrumentors(holders: list[Any], replaced: dict[int, Replaced]) -> None:
    # Found as holders: to call the class would make its one instance, which is then also that of
    # each class of the app's that is derived from it. It has slots, so it is the holder itself.
    kind = getattr(sys.modules.get(_INSTRUMENTOR[0]), _INSTRUMENTOR[1], None)
    for instrumentor in holders:
        if kind not in type(instrumentor).__mro__:
            continue
        for name in _INSTRUMENTOR_KEEPS:
            held = replaced.get(id(getattr(instrumentor, name, None)))
            if held is not None:
                setattr(instrumentor, name, held.now)


def _rebind_bound_methods(holders: list[Any], replaced: dict[int, Replaced]) -> None:
    again = {
        id(bound): (bound, MethodType(replaced[id(bound.__func__)].now, bound.__self__))
        for bound in holders
        if type(bound) is MethodType and id(bound.__func__) in replaced
    }
    if not again:
        return
    for bound, anew in again.values():
        own = getattr(bound.__self__, "__dict__", {})
        for name in (_LOGFIRE_KEEPS, bound.__name__):  # kept, and put back
            if own.get(name) is bound:
                setattr(bound.__self__, name, anew)
    # One pass for all of them. `gc.get_referrers` does not find them: wrapt before 2.2 does not
    # report its references to the garbage collector.
    for holder in gc.get_objects():
        # By `type`: the `__class__` of a proxy is that of the wrapped object.
        if type(holder) is CellType:
            with suppress(ValueError):  # it is empty
                held = again.get(id(holder.cell_contents))
                if held is not None:
                    holder.cell_contents = held[1]
        elif type(holder) is wrapt.FunctionWrapper:
            held = again.get(id(holder.__wrapped__))
            if held is not None:
                holder.__wrapped__ = held[1]
