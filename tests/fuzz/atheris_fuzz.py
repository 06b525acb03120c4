"""Fuzzes one target, or any of them, guided by the branches of the library that an input reaches.

    python tests/fuzz/atheris_fuzz.py TARGET [-runs=N] [any option of libFuzzer]

Ends with 0 and libFuzzer's figures if nothing was found; else the input is written to a file
``crash-…`` beside an exception that says what was not so.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

import atheris

# Dates are read by the standard library, and what it raises is ours to catch.
with atheris.instrument_imports(include=["assisters_otel", "email"]):
    import targets


def main() -> None:
    name, *options = sys.argv[1:] or ["--help"]
    known = targets.TARGETS | {"any": targets.any_of_them}
    if name not in known:
        sys.exit(f"{__doc__}\nTARGET is one of {', '.join(known)}.")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    corpus = folder / "corpus"
    corpus.mkdir()
    for n, seed in enumerate(targets.SEEDS.get(name, targets.SEEDS_OF_ANY)):
        (corpus / str(n)).write_bytes(seed)
    words = folder / "words"
    quoted = ("".join(f"\\x{byte:02x}" for byte in word) for word in targets.WORDS)
    words.write_text("".join(f'"{word}"\n' for word in quoted))
    # Python, the SDK and what http.client asks for at once, on the word of a hostile chunk.
    memory = "-rss_limit_mb=4096"
    arguments = [sys.argv[0], memory, f"-dict={words}", *options, str(corpus)]
    atheris.Setup(arguments, partial(targets.run, known[name]))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
