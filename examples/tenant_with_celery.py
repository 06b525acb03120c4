"""Whose task was it? The tenant goes with the task, and is on spans and metrics. See `ForTenant`.

celery -A tenant_with_celery worker, in this folder. To send a task, where the tenant is known:
greet.apply_async(["Ada"], headers={"tenant": "acme"})
"""

import os
from typing import Any

import openai
from celery import Celery, Task
from opentelemetry import baggage, context

import assisters_otel

assisters_otel.init("greetings", baggage=("tenant",))
app = Celery("greetings", broker=os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0"))
client = openai.OpenAI(
    base_url=os.environ.get("ASSISTERS_BASE_URL", "https://api.assisters.dev/v1"),
    api_key=os.environ.get("ASSISTERS_API_KEY", "ask_missing"),
)


class ForTenant(Task):  # type: ignore[misc] # Celery has no types
    """A task that works for the tenant in its message's headers."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task as the tenant's."""
        tenant = (self.request.headers or {}).get("tenant", "unknown")
        token = context.attach(baggage.set_baggage("tenant", tenant))
        try:
            return super().__call__(*args, **kwargs)
        finally:
            context.detach(token)


@app.task(base=ForTenant)  # type: ignore[untyped-decorator] # Celery has no types
def greet(name: str) -> None:
    """Ask for a greeting."""
    answer = client.chat.completions.create(
        model="assisters-chat-v1", messages=[{"role": "user", "content": f"Greet {name}."}]
    )
    print(answer.choices[0].message.content)
