"""Digests of a request: its identity, and its Authorization.

Both are keyed with a secret of the process, so that a guessed body or key cannot be tested against
them (test_the_digest_of_one_process_says_nothing_in_another). Nothing else of a request is kept.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assisters_otel.api.request import RequestReader
    from assisters_otel.attempts.attempt import Attempt


def request_identity(attempt: Attempt, secret: bytes) -> int | None:
    """Return the digest that equal requests have in common. Computed once for each attempt.

    It covers the unit of work, the method, the URL, and the Idempotency-Key. Without that header it
    covers the body. Sets `Attempt.identity` and `Attempt.is_bare`.

    Returns:
        The digest, or None if the body cannot be read without consuming it.
    """
    if attempt.identity is not None:
        return attempt.identity
    message = attempt.reader
    key = message.header("idempotency-key")
    content = key or message.body()
    if content is None:
        return None
    attempt.is_bare = not content
    # Python's `hash` of a string is keyed as well, and faster than `hashlib`. But a text and its
    # bytes have the same hash. So the kind of the content is part of the digest.
    kind = "key" if key else "body"
    address = attempt.unit, attempt.request.method, message.url()
    attempt.identity = hash((secret, *address, kind, content))
    return attempt.identity


def authorization_digest(message: RequestReader, secret: bytes) -> bytes | None:
    """Return a digest of the Authorization header, or None without one."""
    value = message.header("authorization")
    if not value:
        return None
    data = value.encode("utf-8", "surrogatepass")
    return blake2b(data, digest_size=16, key=secret).digest()
