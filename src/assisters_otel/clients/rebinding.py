"""Replaces a function in bound methods that other libraries keep.

OpenTelemetry's `instrument_client` leaves a layer of wrapt on a client's transport, around the
bound method of that time. The function that logfire's `instrument_openai` leaves on a client holds
the bound method in its closure. Nothing lists these holders but the garbage collector.
"""

from __future__ import annotations

import gc
from contextlib import suppress
from types import CellType, MethodType
from typing import Any, Final

import wrapt

# The references to a function that only its class holds: the class, the caller's variable, and the
# argument of `sys.getrefcount`.
OWN_REFERENCES: Final = 3


def rebind_bound_methods(replaced: list[tuple[Any, Any]]) -> None:
    """Replace functions in each bound method that a layer or a closure holds.

    Args:
        replaced: Each function with the one in its place. One search for all of them: it visits
            each object of the process.
    """
    if not replaced:
        return
    now_by_id = {id(before): now for before, now in replaced}
    again = {
        id(bound): (bound, MethodType(now_by_id[id(bound.__func__)], bound.__self__))
        for bound in gc.get_referrers(*(before for before, _ in replaced))
        if type(bound) is MethodType and id(bound.__func__) in now_by_id
    }
    if not again:
        return
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
