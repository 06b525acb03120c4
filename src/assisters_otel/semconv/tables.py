"""The row of a table of attributes. The tables themselves stand beside the names."""

from __future__ import annotations

from assisters_otel.records import Record


class Attribute(Record):
    """One row of a table of span attributes, as the documentation shows it.

    Attributes:
        name: The name, as exported.
        type: OpenTelemetry's type, and the unit if there is one.
        when: The condition under which a span has it.
        value: A description of its value.
    """

    name: str
    type: str
    when: str
    value: str
