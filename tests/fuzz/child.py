"""The process in which Atheris fuzzes one target: `child.py TARGET FAULT FOLDER [OPTION ...]`.

FAULT is the name of a planted fault, or empty. The tokens of the target are written to the file `tokens` of
FOLDER, and an input that breaks a promise to its folder `findings`. Options are those of libFuzzer.
"""

from __future__ import annotations

import contextlib
import sys
from hashlib import sha256
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["noetl.planner", "noetl.api.http"]):
    from tests.fuzz.planted import PLANTED
    from tests.fuzz.targets import TARGETS


def main() -> None:
    program, target_name, fault_name, folder, *arguments = sys.argv
    target = TARGETS[target_name]
    Path(folder, "tokens").write_text("".join(f'"{quote(token)}"\n' for token in target.tokens), "utf-8")

    def run(data: bytes) -> None:
        try:
            target.run(data)
        except Exception:
            # The process may end before libFuzzer has written the input.
            Path(folder, "findings", f"exception-{sha256(data).hexdigest()[:12]}").write_bytes(data)
            raise

    with PLANTED[fault_name].plant() if fault_name else contextlib.nullcontext():
        atheris.Setup([program, *arguments], run)
        atheris.Fuzz()


def quote(token: str) -> str:
    """Return a token as a dictionary of libFuzzer writes it.

    >>> quote('a"b')
    'a\\\\"b'
    """
    escaped = (f"\\{character}" if character in '\\"' else character for character in token)
    return "".join(part if part.isprintable() else f"\\x{ord(part):02x}" for part in escaped)


if __name__ == "__main__":
    main()
