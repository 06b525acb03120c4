"""What the adapters of the SDKs have in common: a method is a call, and what it sends is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assisters_otel.clients.patching import unbound

if TYPE_CHECKING:
    from collections.abc import Callable

    from assisters_otel.attempts.call import Call


def in_call(
    original: Callable[..., Any], begin: Callable[[Any, Any, Any], Call | None]
) -> Callable[..., Any]:
    """Wrap a method that returns when its call has been answered, or has failed.

    Args:
        original: The method, as it stands in its class.
        begin: Gets the client, the arguments and the keyword arguments; gives the call, or None
            if it is not watched.
    """
    wrapped = unbound(original)

    def request(client: Any, *args: Any, **kwargs: Any) -> Any:
        call = begin(client, args, kwargs)
        if call is None:
            return wrapped(client, *args, **kwargs)
        call.enter()
        try:
            result = wrapped(client, *args, **kwargs)
            call.returned()
        except BaseException as error:
            call.raised(error)
            raise
        finally:
            call.leave()
        return result

    return request
