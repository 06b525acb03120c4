"""Fails a test in which something planted has left, for pytest."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

import leaks
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_configure() -> None:
    logging.getLogger(names.SCOPE).addHandler(leaks.Handler())


@pytest.fixture(autouse=True)
def nothing_planted_leaves() -> Iterator[None]:
    """Set up before all else, so it looks after all else has ended."""
    yield
    assert leaks.take() == []
