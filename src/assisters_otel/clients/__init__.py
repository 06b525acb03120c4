"""One adapter a client: what to wrap, and what each saw."""
