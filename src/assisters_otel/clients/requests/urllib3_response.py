"""urllib3's response, told of as it is read: the same bytes, exceptions and closes.

One that is to tell gets a class with the same methods, whichever of them the app reads by. They
all fetch through four that are not public, and have been the same since urllib3 1.26.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import lru_cache
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from assisters_otel.clients.classes import GENERATIONS, is_of, named_as

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from assisters_otel.recording.response_body import ResponseBody

_FETCHES: Final = ("_fp_read", "_handle_chunk", "_update_chunk_length", "_error_catcher")
_WATCH: Final = "_assisters_otel_watch"


def watch(raw: Any, body: ResponseBody, broke: Callable[[BaseException], object]) -> None:
    """Have a body told of what is read.

    Args:
        raw: The response, of which nothing has been read.
        body: Gets the bytes as they came over the wire, still encoded, and the end.
        broke: Gets what is raised in place of more, in urllib3's words.
    """
    kind: Any = type(raw)
    if is_of(kind, "urllib3.response", "HTTPResponse") and all(
        hasattr(kind, name) for name in _FETCHES
    ):
        vars(raw)[_WATCH] = body, broke
        raw.__class__ = _telling(kind)


@lru_cache(GENERATIONS)
def _telling(base: Any) -> type:  # noqa: C901 - a class, not one function
    class HTTPResponse(base):  # type: ignore[misc]
        def _fp_read(self, *args: Any, **kwargs: Any) -> Any:
            return self._tell(super()._fp_read(*args, **kwargs))

        def _handle_chunk(self, amt: int | None) -> Any:
            return self._tell(super()._handle_chunk(amt))

        def _update_chunk_length(self) -> None:
            found = self.__dict__.pop(_WATCH, None)  # it closes itself before it raises
            try:
                super()._update_chunk_length()
            finally:
                if found is not None:
                    self.__dict__[_WATCH] = found

        def _tell(self, chunk: Any) -> Any:
            found = vars(self).get(_WATCH)
            if found is not None and chunk:
                body, _ = found
                body.read_s = perf_counter()
                if body.events is not None and not body.events.skip_plain_event(chunk):
                    body.feed(chunk)
            return chunk

        @contextmanager
        def _error_catcher(self) -> Iterator[None]:
            try:
                with super()._error_catcher():
                    yield
            except GeneratorExit:  # the generator that reads is dropped
                self._tell_last(left=True)
                raise
            except BaseException as error:
                self._tell_last(error=error)
                raise
            original = self._original_response
            if original is not None and original.isclosed():
                self._tell_last(ended=True)

        def _tell_last(
            self, *, error: BaseException | None = None, ended: bool = False, left: bool = False
        ) -> None:
            found = self.__dict__.pop(_WATCH, None)
            if found is None:
                return
            body, broke = found
            if error is not None:
                broke(error)
            elif ended:
                body.ended()
            elif left:
                body.left()
            else:
                body.closed()

        def close(self) -> None:
            super().close()
            self._tell_last()

        def __del__(self) -> None:
            # What is collected closes itself; that is nobody's wish.
            found = self.__dict__.pop(_WATCH, None)
            if found is not None:
                body, _ = found
                body.dropped()
            super().__del__()

    return named_as(base, HTTPResponse)
