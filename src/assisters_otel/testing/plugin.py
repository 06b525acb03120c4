"""The pytest plug-in: the fixtures ``assisters_api`` and ``assisters_telemetry``.

pytest imports it in every environment that has this package, so it asks for
nothing but pytest until the fixture is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assisters_otel.testing import AssistersTelemetry, FakeApi


@pytest.fixture
def assisters_api() -> Iterator[FakeApi]:
    """A started `FakeApi`, new for each test and stopped after it."""
    from assisters_otel.testing import FakeApi  # noqa: PLC0415 - an optional dependency

    with FakeApi() as api:
        yield api


@pytest.fixture
def assisters_telemetry(assisters_api: FakeApi) -> Iterator[AssistersTelemetry]:
    """That server, and what is recorded while the test runs; nothing is exported."""
    from assisters_otel import testing  # noqa: PLC0415 - OpenTelemetry's SDK takes a while

    with testing.recorded() as recorded:
        yield testing.AssistersTelemetry(assisters_api, recorded)
