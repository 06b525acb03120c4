"""One file for each place an outcome is written to."""
