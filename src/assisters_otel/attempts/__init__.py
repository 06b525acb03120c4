"""The attempts in flight, the calls that they belong to, and the tasks or threads that send them.

Data with identity. `recording` changes it; `resends` and `sinks` read it.
"""
