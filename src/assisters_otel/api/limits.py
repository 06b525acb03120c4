"""How much of what comes over the wire is kept."""

from __future__ import annotations

from typing import Final

MAX_BYTES: Final = 64 * 1024
"""A body is looked at up to here, raw and decompressed. An envelope has a few hundred bytes."""

MAX_VALUE: Final = 128
"""Characters of a code, type, param or id that are kept. The longest documented one has 25."""

MAX_MESSAGE: Final = 256
"""Characters of a message that are kept, if it is asked for."""
