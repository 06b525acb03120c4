"""A function that calls ``init`` in its first invocation."""

from __future__ import annotations

from typing import Any


def handler(event: Any, context: Any) -> str:
    import lambda_handlers

    return lambda_handlers.handler(event, context)
