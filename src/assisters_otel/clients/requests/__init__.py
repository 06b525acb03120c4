"""requests: where it sends, how a request is read, how a body is watched.

`adapter` comes first. `exchange` holds its records. `request_reader` reads a request. `read_ahead`
reads the beginning of a failed answer's body,
`urllib3_response` watches a successful one's, and `exceptions` classifies what requests raises.
"""
