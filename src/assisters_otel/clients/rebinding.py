"""Bound methods that others keep, bound anew to what is wrapped."""

from __future__ import annotations

import gc
from contextlib import suppress
from types import CellType, MethodType
from typing import Any, Final

import wrapt

# To a function that its class alone holds: from the class, from here, and from who counts.
_REFERENCES: Final = 3


def _rebind(before: Any, now: Any) -> None:
    """Put a function in place of another where one of the class's instances has it in a layer.

    OpenTelemetry's `instrument_client` leaves such a layer on a client's transport, around what
    the class had on that day; logfire's `instrument_openai` a function on the client that encloses
    it. Nobody lists them; the garbage collector knows who holds what.
    """
    again = {
        id(bound): (bound, MethodType(now, bound.__self__))
        for bound in gc.get_referrers(before)
        if type(bound) is MethodType and bound.__func__ is before
    }
    if not again:
        return
    # Once, however many there are. And not by who refers to them: wrapt before 2.2 does not say so.
    for holder in gc.get_objects():
        # By its type: a proxy's class is that of what it stands for.
        if type(holder) is CellType:
            with suppress(ValueError):  # it is empty
                held = again.get(id(holder.cell_contents))
                if held is not None:
                    holder.cell_contents = held[1]
        elif type(holder) is wrapt.FunctionWrapper:
            held = again.get(id(holder.__wrapped__))
            if held is not None:
                holder.__wrapped__ = held[1]
