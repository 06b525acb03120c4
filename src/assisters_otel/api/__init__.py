"""The API on the wire: bytes and headers in, clean values out. Pure."""
