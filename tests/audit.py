"""Says what pip-audit found: `python tests/audit.py REPORT.json STATUS`, as .ci/audit does.

pip-audit ends with 1 for a vulnerability as for a database that it cannot reach, and with 0 where
an index that is no database knows none of the packages. Only the report tells these apart.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def said(report: str, status: int) -> tuple[str, int]:
    """Give what is to be said of a report, which may be empty, and the code to end with."""
    if status not in {0, 1}:
        return f"pip-audit ended with {status}: see above", status
    try:
        packages = json.loads(report)["dependencies"]
    except ValueError:
        packages = []
    audited = [package for package in packages if "skip_reason" not in package]
    if not audited:
        return f"not audited: no database could be reached (pip-audit ended with {status})", 0
    vulnerable = [package for package in audited if package["vulns"]]
    lines = []
    for package in vulnerable:
        ids = ", ".join(found["id"] for found in package["vulns"])
        lines.append(f"{package['name']} {package['version']}: {ids}")
    unknown = len(packages) - len(audited)
    lines.append(f"{len(audited)} audited, {unknown} not known, {len(vulnerable)} vulnerable")
    return "\n".join(lines), 1 if vulnerable else 0


if __name__ == "__main__":
    told, code = said(Path(sys.argv[1]).read_text("utf-8"), int(sys.argv[2]))
    print(told)
    sys.exit(code)
