"""Every line of docs/security.md names tests that are there, and says which of them are slow."""

from tests.docs.test_survival import NAMED, ROOT, named_in


def test_every_line_names_tests_that_exist() -> None:
    lines = (ROOT / "docs" / "security.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| danger")]
    assert len(rows) >= 16
    for row in rows:
        named = NAMED.findall(row)
        assert named, row
        for path, name, slow in named:
            found = named_in(ROOT / path)
            assert name in found, f"{path}::{name}"
            assert found[name] == bool(slow), f"{path}::{name}: slow or not?"
