"""A function in whose own module ``init`` stands at the top, as most are written."""

from __future__ import annotations

import os
import ssl
from typing import Any

import assisters_otel

assisters_otel.init("function", hosts=[os.environ["API"]])

import httpx  # noqa: E402 - `init` is at the top

TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # the API speaks plain HTTP


def handler(event: Any, _context: Any) -> str:
    httpx.get(f"{os.environ['API']}/models", trust_env=False, verify=TLS)
    return f"{event['number']} is done"


@assisters_otel.flushed
def decorated(event: Any, context: Any) -> str:
    return handler(event, context)
