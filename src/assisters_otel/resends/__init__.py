"""Recognises resends: whether an attempt sends a request again, and which attempt preceded it."""
