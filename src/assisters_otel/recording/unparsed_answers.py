"""The calls whose answers the app parses itself, after the SDK has returned.

`with_raw_response` and `with_streaming_response` of `openai` return such answers; langchain and
litellm use them. The body is complete, and whether it is a result is known when the app has parsed
it. Until then the call waits. It ends at the first of these, at the moment of its body's end:

* The app has parsed the answer, or has failed to.
* The app has closed or dropped the answer.
* The same task or thread starts its next call.
* `LIMIT_S` have passed, or telemetry stops.

A parse that fails later is recorded as well (`settle`), but the call's span is gone.
"""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Final

from assisters_otel.attempts import control_flow
from assisters_otel.records import Record
from assisters_otel.weak_identity import WeakIdentityDict

if TYPE_CHECKING:
    from collections.abc import Callable

    from assisters_otel.attempts.call import Call
    from assisters_otel.attempts.call_interfaces import Body

LIMIT_S: Final = 4.0
"""The seconds for which a call waits. The thread that ends it looks once a second, and the
contract is five at most."""


class _Wait(Record):
    """A call's wait: the task or thread that has made it, the answer, and the start."""

    owner: int
    answer: weakref.ref[object]
    since_s: float


class UnparsedAnswers:
    """The answers, and the calls that wait.

    Attributes:
        is_used: True if there has been such an answer in this process.
        waits: The calls that wait.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.forked()

    def forked(self) -> None:
        """Forget all of them in a forked child: the parent ends them."""
        # The body as well: a call that has ended does not refer to it any more.
        self._calls: WeakIdentityDict[tuple[Call, Body | None]] = WeakIdentityDict()
        self.waits: dict[Call, _Wait] = {}
        self.is_used = False
        # By the `id` of the task or thread. Another one may have the same later: then a call that
        # waits for nothing but its parse ends a little earlier.
        self._by_owner: dict[int, Call] = {}

    def remember(self, call: Call, answer: object) -> bool:
        """Remember the call of an answer that the app parses, unless that is impossible.

        Returns:
            False if the answer cannot be referred to weakly.
        """
        self.is_used = True
        return self._calls.put(answer, (call, call.body))

    def wait(
        self, call: Call, answer: object, put_off: Callable[[Callable[[], object]], object]
    ) -> None:
        """Keep a call open until its answer has been parsed.

        Args:
            call: The call.
            answer: The SDK's answer, which the app parses. `remember` has returned True for it.
            put_off: A function that runs a step soon, outside the garbage collector.
        """
        owner = id(control_flow.current_task_or_thread())
        # The callback may run at any point of the program.
        dropped = weakref.ref(answer, lambda _: put_off(call.settle))
        self.waits[call] = _Wait(owner, dropped, time.monotonic())
        self._by_owner[owner] = call

    def settle(self, answer: object, error: Exception | None = None) -> Call | None:
        """End the wait of an answer's call, if it is known. Return the call, or None.

        Args:
            answer: The answer, which the app has parsed or closed.
            error: The exception with which the parse has failed, perhaps after the call's end.
        """
        call, body = self._calls.get(answer) or (None, None)
        if body is not None and error is not None:
            body.found_unusable(None, error)
        if call is not None:
            call.settle(error)
        return call

    def discard(self, call: Call) -> None:
        """Remove a call that has ended. A later parse still finds it."""
        wait = self.waits.pop(call, None)
        if wait is not None and self._by_owner.get(wait.owner) is call:
            del self._by_owner[wait.owner]

    def settle_previous(self) -> None:
        """End the wait of the previous call of this task or thread: its next one starts."""
        call = self._by_owner.pop(id(control_flow.current_task_or_thread()), None)
        if call is not None:
            call.settle()

    def settle_old(self) -> None:
        """End the waits that have lasted for `LIMIT_S`."""
        if not self.waits:
            return
        latest_s = time.monotonic() - LIMIT_S
        for call, wait in list(self.waits.items()):  # the oldest first
            if wait.since_s > latest_s:
                return
            call.settle()
