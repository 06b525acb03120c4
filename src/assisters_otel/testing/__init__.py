"""A fake Assisters API for tests and demonstrations; needs the extra ``testing``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assisters_otel.testing.answers import Received
    from assisters_otel.testing.server import FakeApi

__all__ = ["FakeApi", "Received"]


def __getattr__(name: str) -> object:
    """Import on first use: the pytest plug-in stands in this package and must load without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from assisters_otel.testing import answers, server  # noqa: PLC0415 - an optional dependency
    except ModuleNotFoundError as missing:
        raise ImportError(
            f"assisters_otel.testing.{name} needs {missing.name}: "
            "pip install 'assisters-otel[testing]'"
        ) from missing
    return {"FakeApi": server.FakeApi, "Received": answers.Received}[name]
