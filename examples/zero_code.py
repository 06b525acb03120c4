"""No line of telemetry in the app: opentelemetry-instrument python examples/zero_code.py."""

import os

import httpx

url = os.environ.get("ASSISTERS_BASE_URL", "https://api.assisters.dev/v1")
key = os.environ["ASSISTERS_API_KEY"]
print(httpx.get(f"{url}/models", headers={"Authorization": f"Bearer {key}"}).status_code)
