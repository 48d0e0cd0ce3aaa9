"""Record the golden files anew: `python -m tests.golden.update`, a minute or two.

Prints the lines that CHANGELOG.md then needs.
"""

import tempfile
from pathlib import Path

from tests.golden.cases import plan_cases
from tests.golden.facts import differences
from tests.golden.texts import (
    REASON,
    SPECS,
    changelog_line,
    golden_files,
    has_reason,
    make_rounds,
    plan_text,
    recorded_files,
    write_cases,
    write_files,
)


def main() -> None:
    for name, cases in plan_cases().items():
        write_cases(name, {case: plan_text(name, words) for case, words in cases.items()})
    with tempfile.TemporaryDirectory() as folder:
        specs, files = make_rounds(Path(folder))
    write_cases(SPECS, specs)
    if differences(recorded_files(), files):  # else only the last digits of floats differ, with the CPU
        write_files(files)
    lines = [changelog_line(name) + REASON for name in golden_files() if not has_reason(name)]
    print("\n".join(["Add to CHANGELOG.md, section Unreleased, and say why:", *lines] if lines else ["nothing to add"]))


if __name__ == "__main__":
    main()
