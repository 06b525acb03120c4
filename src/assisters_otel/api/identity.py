"""Whose request it was: the fingerprint of its key, and entries of the app's baggage. Pure.

A fingerprint is the beginning of the key's SHA-256. It tells one key from another, and shows none
of the key's characters. Anyone who has a key can compute its fingerprint:
``printf %s "$KEY" | sha256sum | cut -c1-8``.
"""

from __future__ import annotations

import hashlib
from typing import Final

from assisters_otel.records import Record

Entries = tuple[tuple[str, str], ...]
"""Names and values, in their order."""

KEY_FORMS: Final = ("ask_", "sk-", "asst_sk_")
"""The beginnings of the API's keys. Source: the API's documentation."""

MIN_KEY_LENGTH: Final = 20
"""The characters of the shortest key that has a fingerprint. A fingerprint confirms a guess, and a
shorter text could be guessed."""

DIGITS: Final = 8
"""The hexadecimal digits of a fingerprint. Of 8,600 accounts with a thousand keys each, one has two
keys that share them."""


class Identity(Record):
    """Whose request it was.

    Attributes:
        key_fingerprint: The fingerprint of the key that it was sent with. None without a key of a
            documented form, or if fingerprints are switched off.
        baggage: The entries of the app's baggage that `init` names, cleaned.
        credential: A number that tells one Authorization header from another within this process,
            or None without one. It never leaves the process.
    """

    key_fingerprint: str | None = None
    baggage: Entries = ()
    credential: int | None = None


NOBODY: Final = Identity()
"""The identity of a request of which nothing is known."""


def find_key(text: str) -> str | None:
    """Return the API key in an Authorization header's value, or None if it has none.

    A key that was configured with the word before it is sent as ``Bearer Bearer ask_…``. So the key
    is the last word, whatever stands before it.

    Args:
        text: The value as sent, or a key alone.
    """
    words = text.split()
    if not words or len(words[-1]) < MIN_KEY_LENGTH or not words[-1].startswith(KEY_FORMS):
        return None
    return words[-1] if words[-1].isascii() and words[-1].isprintable() else None


def key_fingerprint(text: str) -> str | None:
    """Return the fingerprint of the API key in an Authorization header's value, or None.

    Args:
        text: The value as sent, or a key alone.
    """
    key = find_key(text)
    return None if key is None else hashlib.sha256(key.encode()).hexdigest()[:DIGITS]
