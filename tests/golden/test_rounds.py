"""Two runs of two rounds, in fact: the specs they leave, and what the files of every stage say, are as recorded.

Not by sha256 of the files: the last digits of floats, and so the bytes of weights, depend on the instructions that a
CPU has. Text, token ids and counts are the same bytes everywhere, and floats are compared within a tolerance
(tests/golden/facts.py). Specs name what they read by whose digest it is.
"""

from typing import Any

import pytest

from tests.golden.facts import differences
from tests.golden.texts import SPECS, UPDATE, first_difference, make_rounds, recorded_cases, recorded_files

Rounds = tuple[dict[str, str], dict[str, Any]]
SHOWN = 5


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> Rounds:
    return make_rounds(tmp_path_factory.mktemp("golden"))


def test_runs_have_the_recorded_stages(rounds: Rounds) -> None:
    specs, files = rounds
    assert (list(specs), list(files)) == (list(recorded_cases(SPECS)), list(recorded_files())), UPDATE


@pytest.mark.parametrize("run", recorded_cases(SPECS))
def test_specs_of_a_run_are_as_recorded(run: str, rounds: Rounds) -> None:
    difference = first_difference(recorded_cases(SPECS)[run], rounds[0].get(run))
    if difference:
        pytest.fail(f"specs of the run {run} changed: {difference}\n{UPDATE}", pytrace=False)


@pytest.mark.parametrize("stage", recorded_files())
def test_files_of_a_stage_are_as_recorded(stage: str, rounds: Rounds) -> None:
    found = differences(recorded_files()[stage], rounds[1].get(stage, {}))
    if found:
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        lines = "\n  ".join([*found[:SHOWN], *more])
        pytest.fail(f"files of {stage} changed:\n  {lines}\n{UPDATE}", pytrace=False)
