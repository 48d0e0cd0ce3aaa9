"""Golden files change only together with a line in CHANGELOG.md that says why."""

import pytest

from tests.golden.texts import FOLDER, REASON, changelog_line, golden_files, has_reason


@pytest.mark.parametrize("name", golden_files())
def test_the_changelog_says_why_a_golden_file_is_as_it_is(name: str) -> None:
    assert has_reason(name), f"CHANGELOG.md needs this line, with the reason filled in:\n{changelog_line(name)}{REASON}"


def test_every_golden_file_is_compared_with() -> None:
    found = {path.name for path in FOLDER.iterdir() if path.suffix in (".yaml", ".json")}
    assert found == set(golden_files())
