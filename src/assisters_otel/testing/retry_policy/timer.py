"""Measures how late a timer is: the noise of each pause that is measured meanwhile.

A pause ends when the machine wakes a thread. On a busy machine that is late, and each time by
another amount.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing_extensions import Self

_ASKED_S: Final = 0.02
"""The time that the timer asks for, in seconds. Fifty wake-ups a second cost next to nothing, and a
spaced scenario takes some ten seconds."""


class Timer:
    """A ``with`` block in which a thread waits again and again.

    Attributes:
        late_s: How much longer than asked it waited each time, in seconds.
    """

    def __init__(self) -> None:
        """Measure nothing yet."""
        self.late_s: list[float] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="assisters-timer", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread."""
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        began_s = time.monotonic()
        # Not `time.sleep`: a test may have replaced it, to wait for nothing.
        while not self._is_over.wait(_ASKED_S):
            now_s = time.monotonic()
            self.late_s.append(now_s - began_s - _ASKED_S)
            began_s = now_s
