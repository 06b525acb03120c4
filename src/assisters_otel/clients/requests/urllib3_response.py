"""Watches urllib3's response while the app reads it. Bytes, exceptions and closes stay the same.

A watched response gets a subclass of its class. All public methods of urllib3's response read
through four that are not public. These four have been the same since urllib3 1.26, and the subclass
overrides them. Without them a response is not watched.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import lru_cache
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from assisters_otel.clients.classes import GENERATIONS, is_of, take_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from assisters_otel.recording.response_body import ResponseBody

_READ_METHODS: Final = ("_fp_read", "_handle_chunk", "_update_chunk_length", "_error_catcher")
_WATCH: Final = "_assisters_otel_watch"
_IS_BREAKING: Final = "_assisters_otel_is_breaking"


def watch(raw: Any, body: ResponseBody, broke: Callable[[BaseException], object]) -> None:
    """Report what is read of a response to *body*.

    Args:
        raw: The response of urllib3, of which nothing has been read.
        body: The receiver of the bytes as they came over the wire, still encoded, and of the end.
        broke: A function that gets the exception that urllib3 raises in place of more bytes.
    """
    kind: Any = type(raw)
    if is_of(kind, "urllib3.response", "HTTPResponse") and all(
        hasattr(kind, name) for name in _READ_METHODS
    ):
        vars(raw)[_WATCH] = body, broke
        raw.__class__ = _watching_class(kind)


@lru_cache(GENERATIONS)
def _watching_class(base: Any) -> type:  # noqa: C901 - a class, not one function
    """Return a subclass of a response's class that reports chunks and the end to its body."""

    class HTTPResponse(base):  # type: ignore[misc]
        def _fp_read(self, *args: Any, **kwargs: Any) -> Any:
            return self._report_chunk(super()._fp_read(*args, **kwargs))

        def _handle_chunk(self, amt: int | None) -> Any:
            return self._report_chunk(super()._handle_chunk(amt))

        def _update_chunk_length(self) -> None:
            self.__dict__[_IS_BREAKING] = True  # urllib3 closes the response, then raises
            try:
                super()._update_chunk_length()
            finally:
                self.__dict__.pop(_IS_BREAKING, None)

        def _report_chunk(self, chunk: Any) -> Any:
            found = vars(self).get(_WATCH)
            if found is not None and chunk:
                body, _ = found
                body.read_s = perf_counter()
                if not body.skip_chunk(chunk):
                    body.feed(chunk)
            return chunk

        @contextmanager
        def _error_catcher(self) -> Iterator[None]:
            try:
                with super()._error_catcher():
                    yield
            except GeneratorExit:  # the app has dropped the generator that reads
                self._report_end(left=True)
                raise
            except BaseException as error:
                self._report_end(error=error)
                raise
            original = self._original_response
            if original is not None and original.isclosed():
                self._report_end(ended=True)

        def _report_end(
            self, *, error: BaseException | None = None, ended: bool = False, left: bool = False
        ) -> None:
            found = self.__dict__.get(_WATCH)
            if found is None:
                return
            body, broke = found
            if error is not None:
                broke(error)
            elif ended:
                body.ended()
            elif left:
                body.left()
            elif _IS_BREAKING in self.__dict__:
                return
            else:
                body.closed()
            # Removed last: after an interrupt the next end counts, or the collection.
            self.__dict__.pop(_WATCH, None)

        def close(self) -> None:
            super().close()
            self._report_end()

        def __del__(self) -> None:
            # urllib3 closes a response that is collected. The caller has not closed it.
            found = self.__dict__.pop(_WATCH, None)
            if found is not None:
                body, _ = found
                body.dropped()
            super().__del__()

    return take_identity(base, HTTPResponse)
