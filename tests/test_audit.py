"""What `.ci/audit` makes of pip-audit's report."""

from __future__ import annotations

import json

import pytest

from audit import said

FINE = {"name": "fine", "version": "1.0", "vulns": []}
BROKEN = {"name": "broken", "version": "2.0", "vulns": [{"id": "CVE-1"}, {"id": "CVE-2"}]}
UNKNOWN = {"name": "unknown", "skip_reason": "Dependency not found on PyPI"}


def report(*packages):
    return json.dumps({"dependencies": packages, "fixes": []})


def test_a_known_vulnerability_fails():
    told, code = said(report(FINE, BROKEN, UNKNOWN), 1)

    assert code == 1
    assert told == "broken 2.0: CVE-1, CVE-2\n2 audited, 1 not known, 1 vulnerable"


def test_packages_without_one_pass():
    assert said(report(FINE, FINE), 0) == ("2 audited, 0 not known, 0 vulnerable", 0)


@pytest.mark.parametrize(("text", "status"), [("", 1), (report(UNKNOWN, UNKNOWN), 0)])
def test_a_database_that_is_not_reached_passes_and_is_not_called_fine(text, status):
    told, code = said(text, status)

    assert code == 0
    assert told.startswith("not audited")


@pytest.mark.parametrize("status", [2, 127])
def test_a_pip_audit_that_does_not_run_fails(status):
    assert said("", status)[1] == status
