"""A `Record` is what `typing.NamedTuple` makes of the same class."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
from typing import NamedTuple

import pytest

import assisters_otel
from assisters_otel.records import Record


class Theirs(NamedTuple):
    """One of each.

    Attributes:
        first: A field.
    """

    first: int
    second: str | None = None
    third: tuple[int, ...] = ()

    @property
    def doubled(self) -> int:
        return 2 * self.first

    @classmethod
    def of(cls, first: int) -> Theirs:
        return cls(first)

    @staticmethod
    def one() -> int:
        return 1

    def with_text(self, text: str) -> Theirs:
        return self._replace(second=text)


class Ours(Record):
    """One of each.

    Attributes:
        first: A field.
    """

    first: int
    second: str | None = None
    third: tuple[int, ...] = ()

    @property
    def doubled(self) -> int:
        return 2 * self.first

    @classmethod
    def of(cls, first: int) -> Ours:
        return cls(first)

    @staticmethod
    def one() -> int:
        return 1

    def with_text(self, text: str) -> Ours:
        return self._replace(second=text)


def test_a_class_has_the_same_attributes():
    made_otherwise = {"__annotations__", "__orig_bases__", "__dict__"}

    assert vars(Ours).keys() - made_otherwise == vars(Theirs).keys() - made_otherwise
    for name in ("_fields", "_field_defaults", "__match_args__", "__slots__", "__doc__"):
        assert getattr(Ours, name) == getattr(Theirs, name)
    assert Ours.__module__ == Theirs.__module__ == __name__
    assert Ours.__bases__ == Theirs.__bases__ == (tuple,)
    assert inspect.signature(Ours).parameters.keys() == inspect.signature(Theirs).parameters.keys()


@pytest.mark.parametrize("kind", [Ours, Theirs])
def test_an_object_does_the_same(kind):
    record = kind(1, third=(3,))

    assert record == (1, None, (3,)) == tuple(record)
    assert repr(record) == f"{kind.__name__}(first=1, second=None, third=(3,))"
    assert (record.first, record.second, record.third) == (1, None, (3,))
    assert (record.doubled, kind.one(), kind.of(4).first) == (2, 1, 4)
    assert record.with_text("x") == (1, "x", (3,))
    assert type(record.with_text("x")) is kind
    assert record._asdict() == {"first": 1, "second": None, "third": (3,)}
    assert hash(record) == hash((1, None, (3,)))
    assert pickle.loads(pickle.dumps(record)) == copy.deepcopy(record) == record  # noqa: S301
    with pytest.raises(AttributeError):
        record.first = 2
    with pytest.raises(AttributeError):
        record.another = 2
    with pytest.raises(TypeError, match="first"):
        kind()
    with pytest.raises(TypeError, match="fourth"):
        kind(1, fourth=4)


def records():
    for found in pkgutil.walk_packages(assisters_otel.__path__, "assisters_otel."):
        if "__main__" not in found.name and "pyinstaller" not in found.name:
            for value in vars(importlib.import_module(found.name)).values():
                if isinstance(value, type) and hasattr(value, "_field_defaults"):
                    yield value


def test_each_record_of_the_library_has_the_fields_that_it_declares():
    found = {one for one in records() if one.__module__.startswith("assisters_otel.")}

    assert len(found) > 50
    for record in found:
        defaults = tuple(record._field_defaults)
        assert record._fields == tuple(record.__annotations__), record
        assert record._fields[len(record._fields) - len(defaults) :] == defaults, record
