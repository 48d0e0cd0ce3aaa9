"""Numbers of methods and estimators in the pages are those of the registry and of the settings."""

import re
from typing import get_args

from conf.compose import PROJECT, group_options
from tasks.labeling.settings import PreferenceSettings
from tasks.training.objectives.registry import OBJECTIVES

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def test_the_methods_page_counts_words_and_objectives() -> None:
    page = (PROJECT / "docs/methods.md").read_text(encoding="utf-8")
    found = re.search(r"There are (\d+) words, each a file in `conf/objective/`, for (\d+) objectives", page)
    assert found is not None
    assert [int(number) for number in found.groups()] == [len(group_options("objective")), len(OBJECTIVES.ours())]


def test_the_pages_count_estimators() -> None:
    estimators = get_args(PreferenceSettings.model_fields["estimator"].annotation)
    page = (PROJECT / "docs/own-model.md").read_text(encoding="utf-8")
    assert f"ridge Bradley-Terry or one of {NUMBERS[len(estimators) - 1]} other estimators" in page
