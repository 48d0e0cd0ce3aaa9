"""python requirements/licences.py > docs/licences.md: the licence of every locked package, from its own metadata.

Packages that are not installed are listed by name only. `make licences` runs it in .venv.
"""

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

HERE = Path(__file__).parent
LOCKS = ("cpu", "gpu", "smollm2", "ray", "uv", "build", "audit", "docs")
_PIN = re.compile(r"^(\S+)==([^\s\\]+)", re.MULTILINE)
_LONGEST = 60  # characters of a licence field that is a name and not the whole text


def locked() -> dict[tuple[str, str], list[str]]:
    """(name, version) -> the locks that have it."""
    found: dict[tuple[str, str], list[str]] = {}
    for lock in LOCKS:
        for pin in _PIN.findall((HERE / f"{lock}.txt").read_text(encoding="utf-8")):
            found.setdefault(pin, []).append(lock)
    return dict(sorted(found.items()))


def licence(name: str, version: str) -> str:
    """SPDX expression, classifiers or licence field of an installed package; "" where it is not installed."""
    try:
        package = distribution(name)
    except PackageNotFoundError:
        return ""
    if package.version != version:
        return ""
    about = package.metadata
    classified = [
        line.rsplit(" :: ", 1)[-1] for line in about.get_all("Classifier", []) if line.startswith("License ::")
    ]
    field = (about.get("License") or "").strip()
    named = field if field and "\n" not in field and len(field) <= _LONGEST else ""
    files = about.get_all("License-File", [])
    return (
        about.get("License-Expression")
        or ", ".join(classified)
        or named
        or (f"see {files[0]}" if files else "not said")
    )


def page() -> str:
    rows = [(name, version, licence(name, version), locks) for (name, version), locks in locked().items()]
    lines = [
        "# Licences",
        "",
        "irepo: Apache-2.0. Below are the packages of its locks (`requirements/*.txt`), with the licence that each",
        "names in its own metadata. `make licences` writes this page; a test fails when it does not fit the locks.",
        "",
        "| package | version | licence | locks |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {version} | {said.replace('|', '/')} | {', '.join(locks)} |"
        for name, version, said, locks in rows
        if said
    ]
    missing = [f"| {name} | {version} | {', '.join(locks)} |" for name, version, said, locks in rows if not said]
    lines += [
        "",
        "## Not read here",
        "",
        "These were not installed where this page was written (a machine without a GPU). Their pages on the index name",
        "their licences. NVIDIA's packages are under NVIDIA's own licences, which are not free software.",
        "",
        "| package | version | locks |",
        "|---|---|---|",
        *missing,
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
