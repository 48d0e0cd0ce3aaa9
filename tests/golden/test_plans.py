"""Plans of every preset, recipe and objective, and of what adds stages: each spec, and its key, is as recorded."""

import pytest

from tests.golden.cases import plan_cases
from tests.golden.texts import UPDATE, first_difference, plan_text, recorded_cases

WORDS = plan_cases()


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in WORDS.items() for case in cases])
def test_a_plan_is_as_recorded(name: str, case: str) -> None:
    difference = first_difference(recorded_cases(name).get(case), plan_text(name, WORDS[name][case]))
    if difference:
        pytest.fail(f"the plan of {case} changed: {difference}\n{UPDATE}", pytrace=False)


@pytest.mark.parametrize("name", WORDS)
def test_no_recorded_plan_is_gone(name: str) -> None:
    gone = recorded_cases(name).keys() - WORDS[name].keys()
    assert not gone, f"{name} has cases that are no more: {', '.join(sorted(gone))}. {UPDATE}"
