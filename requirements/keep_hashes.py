"""python requirements/keep_hashes.py NEW LOCK: replace LOCK by NEW, with the hashes that LOCK has for equal releases.

The page with torch's CPU wheels has one for every Python. A machine that has the wheel of its own Python only, in a
local folder, would otherwise take the others' hashes out of the lock.
"""

import re
import sys
from pathlib import Path

_PIN = re.compile(r"^(\S+==[^\s\\]+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)


def pins(text: str) -> dict[str, set[str]]:
    """Hashes by name==version."""
    return {name: set(re.findall(r"sha256:[0-9a-f]{64}", hashes)) for name, hashes in _PIN.findall(text)}


def merged(new: str, old: str) -> str:
    """The lock `new`, with the hashes of `old` for releases that are in both."""
    known = pins(old)
    found = {name: hashes | known.get(name, set()) for name, hashes in pins(new).items()}
    return "".join(
        " \\\n".join([name, *(f"    --hash={value}" for value in sorted(hashes))]) + "\n"
        for name, hashes in found.items()
    )


if __name__ == "__main__":
    new, lock = map(Path, sys.argv[1:])
    old = lock.read_text(encoding="utf-8") if lock.is_file() else ""
    lock.write_text(merged(new.read_text(encoding="utf-8"), old), encoding="utf-8")
