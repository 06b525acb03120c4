"""What continuous integration tries beside the tests, a few minutes' worth: python tests/compat."""

from __future__ import annotations

import sys

import bundle
import foreign
import matrix
import vendors
from environments import end_all_on_sigterm

if __name__ == "__main__":
    end_all_on_sigterm()
    sys.exit(
        matrix.main([]) | vendors.main([]) | bundle.main() | foreign.main(["--modes", "otel ours"])
    )
