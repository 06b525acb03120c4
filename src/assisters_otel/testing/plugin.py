"""The pytest plug-in: the fixture ``assisters_api``.

pytest imports it in every environment that has this package, so it asks for
nothing but pytest until the fixture is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assisters_otel.testing import FakeApi


@pytest.fixture
def assisters_api() -> Iterator[FakeApi]:
    """A started `FakeApi`, new for each test and stopped after it."""
    from assisters_otel.testing import FakeApi  # noqa: PLC0415 - an optional dependency

    with FakeApi() as api:
        yield api
