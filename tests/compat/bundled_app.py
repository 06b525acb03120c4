"""The app that `bundle.py` makes one file of: an API's URL comes as its argument.

It prints what it finds of itself, as JSON.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import entry_points, version

import httpx
import requests

import assisters_otel

url = sys.argv[1]
with assisters_otel.init(hosts=[url]) as telemetry:
    httpx.post(f"{url}/chat/completions", json={"model": "m"}, trust_env=False)
    answer = requests.post(f"{url}/chat/completions", json={"model": "m"}, timeout=5)
    said = assisters_otel.explain(answer).code
    status = telemetry.status()

# PyInstaller would find a name that is written here.
itself = assisters_otel.__name__.replace("_", "-")
print(
    json.dumps({
        "said": said,
        "version": version(itself),
        "instrumentors": [one.name for one in entry_points(group="opentelemetry_instrumentor")],
        "clients": {one.name: one.version for one in status.clients},
        "last failure": status.last_failure,
    })
)  # fmt: skip
