"""How do I switch it on? ASSISTERS_API_KEY=ask_… python examples/quickstart.py."""

import os

import httpx

import assisters_otel

assisters_otel.init("quickstart")

url = os.environ.get("ASSISTERS_BASE_URL", "https://api.assisters.dev/v1")
key = os.environ["ASSISTERS_API_KEY"]
response = httpx.get(f"{url}/models", headers={"Authorization": f"Bearer {key}"})
print(response.status_code)
