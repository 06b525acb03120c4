"""A job that runs for a while and ends, also when it is stopped. python examples/cron_job.py."""

import os
import signal
import sys

import openai

import assisters_otel

# Python ends at once by SIGTERM, and runs nothing more. This makes it a normal exit, at which what
# is queued is sent.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
assisters_otel.init("nightly-greetings")
client = openai.OpenAI(
    base_url=os.environ.get("ASSISTERS_BASE_URL", "https://api.assisters.dev/v1"),
    api_key=os.environ["ASSISTERS_API_KEY"],
)

for name in sys.argv[1:] or ["Ada", "Grace"]:
    answer = client.chat.completions.create(
        model="assisters-chat-v1", messages=[{"role": "user", "content": f"Greet {name}."}]
    )
    print(answer.choices[0].message.content, flush=True)
