"""Every locked package has hashes and a line in docs/licences.md; the locks name no index and no folder."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("cpu", "gpu", "smollm2", "ray", "uv", "build", "audit", "docs")
PIN = re.compile(r"^(\S+)==([^\s\\]+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)


def pins(lock: str) -> list[tuple[str, str, int]]:
    """(name, version, number of hashes)."""
    text = (ROOT / f"requirements/{lock}.txt").read_text(encoding="utf-8")
    return [(name, version, hashes.count("sha256")) for name, version, hashes in PIN.findall(text)]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_is_names_versions_and_hashes(lock: str) -> None:
    text = (ROOT / f"requirements/{lock}.txt").read_text(encoding="utf-8")
    assert pins(lock)
    assert PIN.sub("", text).strip() == "", "a line without a hash, or an address"


def test_torch_for_cpus_has_the_wheels_of_both_pythons() -> None:
    assert {name: number for name, _, number in pins("cpu")}["torch"] >= 2


def test_the_makefile_checks_hashes_and_reads_one_index() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "UV_REQUIRE_HASHES=1" in makefile
    assert "--require-hashes -r requirements/uv.txt" in makefile
    for word in ("unsafe-best-match", "extra-index-url", "EXTRA_INDEX_URL", "UV_INDEX "):
        assert word not in makefile


def test_every_locked_package_has_its_licence_or_is_listed() -> None:
    page = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| (\S+) \| (\S+) \|", page, re.MULTILINE)) - {("package", "version")}
    locked = {(name, version) for lock in LOCKS for name, version, _ in pins(lock)}
    assert listed == locked, "make licences"
