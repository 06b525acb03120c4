"""The limits on how much of a response is read and kept."""

from __future__ import annotations

from typing import Final

MAX_BYTES: Final = 64 * 1024
"""The bytes of a body that are read, raw and decompressed. An envelope has a few hundred."""

MAX_VALUE: Final = 128
"""The characters of a code, type, param or id that are kept. The longest documented one has 25."""

MAX_MESSAGE: Final = 256
"""The characters of a message that are kept, if `capture_message` is on."""

MAX_TEXT: Final = 4096
"""The characters that are kept of a captured header, a user agent or an exception in a status."""
