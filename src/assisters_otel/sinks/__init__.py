"""One file for each place that an outcome is written to.

A sink gets a finished outcome and writes it. It decides nothing about the attempt, and computes no
field of an outcome again. `recording` calls the sinks.

* `attempt_span`, `stream_span` and `call_span` write to spans. `foreign_span` is for spans that the
  app's instrumentation makes.
* `metrics` records in the instruments, and `label_values` bounds their labels.
* `failure_log` writes lines of the log.
* `known_attempts` remembers outcomes for `explain`. `tracebacks` finds those of exceptions that
  take no weak reference.
"""
