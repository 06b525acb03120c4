"""Wraps a method of an SDK, so that one run of it is one call.

All requests that it sends meanwhile are attempts of that call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assisters_otel.clients.patching import as_function

if TYPE_CHECKING:
    from collections.abc import Callable

    from assisters_otel.attempts.call import Call
    from assisters_otel.attempts.call_request import Judge


def wrap_call(
    original: Callable[..., Any],
    begin: Callable[[Any, Any, Any], Call | None],
    judge: Judge | None,
) -> Callable[..., Any]:
    """Wrap a method that returns when its call has been answered, or raises when it has failed.

    Args:
        original: The method, as it stands in its class.
        begin: A function that gets the client, the arguments and the keyword arguments. It returns
            the call, or None if the call is not watched.
        judge: A function that judges what the SDK returns, or None if each result is a success.
    """
    wrapped = as_function(original)

    def request(client: Any, /, *args: Any, **kwargs: Any) -> Any:
        call = begin(client, args, kwargs)
        if call is None:
            return wrapped(client, *args, **kwargs)
        try:
            call.attach()
            try:
                result = wrapped(client, *args, **kwargs)
                call.returned(result, judge)
            except BaseException as error:
                call.raised(error)
                raise
            finally:
                call.detach()
        except BaseException:
            call.leave()
            raise
        return result

    return request
