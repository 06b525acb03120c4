"""The entries of the app's baggage that become attributes, from `init` and from the environment.

An attribute of a name that is used already would be mixed up with the other one, in a span or in a
backend. Prometheus writes ``tenant.id`` and ``tenant_id`` as one label, so names are compared in
its spelling.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from assisters_otel.api.redaction import redact, shown
from assisters_otel.semconv import environment
from assisters_otel.semconv.reserved import NAMESPACES, USED_NAMES, as_label

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")
"""The form of a name: a token of W3C Baggage that is an attribute's and a label's name as well."""

_EXAMPLE: Final = "a name of your own, 'tenant'"


def argument_names(names: Iterable[object]) -> tuple[str, ...]:
    """Return the names in the argument *baggage* of `init`, each once.

    Raises:
        ValueError: One of them is no name, or is used already. The message shows what to write.
    """
    found: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"baggage holds text, not {type(name).__name__}. Write {_EXAMPLE}")
        _add(found, name.strip())
    return tuple(found.values())


def environment_names(environ: Mapping[str, str]) -> tuple[tuple[str, ...], str | None]:
    """Return the names that the environment lists, and a message if some of them are wrong.

    The message names the variable, and says which names are used.
    """
    found: dict[str, str] = {}
    wrong: list[str] = []
    for text in environ.get(environment.ASSISTERS_OTEL_BAGGAGE, "").split(","):
        if text.strip():
            try:
                _add(found, text.strip())
            except ValueError as error:
                wrong.append(str(error))
    names = tuple(found.values())
    if not wrong:
        return names, None
    used = f"used are {', '.join(map(shown, names))}" if names else "none is used"
    return names, f"{environment.ASSISTERS_OTEL_BAGGAGE}: {'; '.join(wrong)}; {used}"


def _add(found: dict[str, str], name: str) -> None:
    """Add a name under its spelling as a label.

    Raises:
        ValueError: It is no name, or is used already.
    """
    if not _NAME.fullmatch(name) or redact(name) != name:
        raise ValueError(
            f"not a name of a baggage entry: {shown(name)}. Write {_EXAMPLE}, of letters, digits, "
            "'_', '-' and '.', one to an entry"
        )
    label = as_label(name)
    user = USED_NAMES.get(label)
    if user is None and "." in name and name.partition(".")[0] in NAMESPACES:
        user = "the semantic conventions, which own that namespace"
    if user is None and found.get(label, name) != name:
        user = "another entry, as Prometheus spells both"
    if user is not None:
        raise ValueError(f"the name {shown(name)} is used by {user}. Write {_EXAMPLE}")
    found[label] = name
