"""requests, and urllib3's retries that nobody sees. python examples/with_requests.py."""

import os

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

import assisters_otel

assisters_otel.init("with-requests")

session = requests.Session()
session.headers["Authorization"] = f"Bearer {os.environ['ASSISTERS_API_KEY']}"
retry = Retry(3, status_forcelist=[429, 503], backoff_factor=0.5, raise_on_status=False)
session.mount("https://", HTTPAdapter(max_retries=retry))
session.mount("http://127.0.0.1", HTTPAdapter(max_retries=retry))

url = os.environ.get("ASSISTERS_BASE_URL", "https://api.assisters.dev/v1")
response = session.get(f"{url}/models", timeout=30)
print(assisters_otel.explain(response).what)
