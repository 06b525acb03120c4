"""The interfaces between a call, the body of its answer, and the recorder of calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from assisters_otel.api.answer import Answer
    from assisters_otel.api.error_body import Envelope
    from assisters_otel.outcomes import CallOutcome

C_contra = TypeVar("C_contra", contravariant=True)  # a call


class Attempted(Protocol):
    """The part of an `Attempt` that a call uses."""

    def without_secrets(self, told: Answer | None) -> Answer | None:
        """Return the record of an answer without the keys in the request's headers."""


class Body(Protocol):
    """The part of a `ResponseBody` that a call uses."""

    is_over: bool
    made: str

    @property
    def attempt(self) -> Attempted:
        """The attempt that it answers."""

    def found_unusable(self, error: Envelope | None, exception: Exception | None = None) -> None:
        """Record that the answer has a status of success, and is none.

        Args:
            error: The error in place of the result, or None.
            exception: The exception with which the SDK has refused to parse it, or None.
        """

    def read_answer(self) -> Answer | None:
        """Return the record of the answer if the body is complete and is kept, else None."""

    def release(self) -> None:
        """Forget the bytes that are kept: the call has ended."""

    def abandon(self) -> None:
        """End it: its reader will not do so."""

    def forked(self) -> None:
        """Report nothing of it in this forked child: the parent does."""


class Watcher(Protocol[C_contra]):
    """The receiver of a call's reports."""

    def raised(self, call: C_contra, error: BaseException) -> None:
        """Record the exception that the SDK has raised to its caller."""

    def waits(self, call: C_contra) -> None:
        """Record that a call has returned, and that its body is still open."""

    def awaits_parse(self, call: C_contra, answer: object) -> bool:
        """Return True if a call waits until the app has parsed the answer that it has returned."""

    def ended(self, call: C_contra, outcome: CallOutcome, end_ns: int | None) -> None:
        """Record a call's outcome, once. *end_ns* is None if the call ends now."""

    def gave_up(self, call: C_contra) -> None:
        """Leave nothing open of a call whose end was interrupted."""

    def is_collecting(self) -> bool:
        """Return True if this runs inside the garbage collector."""

    def put_off(self, step: Callable[[], object]) -> None:
        """Run a step soon, outside the garbage collector."""
