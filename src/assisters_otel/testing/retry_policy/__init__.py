"""The proof of a retry policy: rules, scenarios, the calls that play them, the report."""
