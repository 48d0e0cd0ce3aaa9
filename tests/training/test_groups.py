"""Prompt groups from preferences.parquet, and how steps and forwards split them."""

from pathlib import Path

import pytest

from storage.errors import UserError
from tasks.training.batching import padded_batches
from tasks.training.groups import read_preferences, windows
from tests.training.preference_rows import preference_row, preference_rows, write_preferences

REPLIES = [[5, 6], [7, 8, 9], [5, 6]]


def test_groups_hold_each_response_once(tmp_path: Path) -> None:
    path = write_preferences(tmp_path / "p.parquet", preference_rows(prompts=3, responses=4))
    preferences = read_preferences(path)
    assert [len(group.responses) for group in preferences.groups] == [4, 4, 4]
    assert preferences.pairs == 3 * 6
    assert preferences.responses == 12
    pairs = [(group, pair) for group in preferences.groups for pair in group.pairs]
    for row, (group, pair) in zip(preference_rows(prompts=3, responses=4), pairs, strict=True):
        assert group.prompt_ids.tolist() == row["prompt_ids"]
        assert group.responses[pair.chosen].tolist() == row["chosen_ids"]
        assert group.responses[pair.rejected].tolist() == row["rejected_ids"]
        assert group.indices[pair.chosen] == row["chosen_index"]
        assert pair.label == row["target"]


def test_rounds_have_separate_groups(tmp_path: Path) -> None:
    """With replay, the same prompt in two rounds has two sets of responses under the same indices."""
    first = preference_row("a", [3], [[5], [6]], 0, 1, 1.0)
    second = preference_row("a", [3], [[7], [8]], 0, 1, 2.0) | {"round": 2}
    preferences = read_preferences(write_preferences(tmp_path / "p.parquet", [first, second]))
    assert [(group.round, group.responses[0].tolist()) for group in preferences.groups] == [(1, [5]), (2, [7])]


def test_identical_responses_are_skipped_and_counted(tmp_path: Path) -> None:
    rows = [preference_row("a", [3], REPLIES, 0, 2, 1.0), preference_row("a", [3], REPLIES, 1, 2, 1.0)]
    preferences = read_preferences(write_preferences(tmp_path / "p.parquet", rows))
    assert preferences.identical_pairs == 1
    assert preferences.pairs == 1
    assert preferences.groups[0].indices == [1, 2]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no labeled pair"),
        ([preference_row("a", [3], REPLIES, 0, 2, 1.0)], "no labeled pair"),
        ([preference_row("a", [3], REPLIES, 0, 1, float("nan"))], "target is nan"),
        ([preference_row("a", [3], [[5], []], 0, 1, 1.0)], "response 1 of prompt a has no tokens"),
        (
            [preference_row("a", [3], [[5], [6]], 0, 1, 1.0), preference_row("a", [3], [[4], [6]], 0, 1, 1.0)],
            "response 0 of prompt a has other tokens",
        ),
    ],
)
def test_invalid_rows_are_refused(tmp_path: Path, rows: list[dict[str, object]], message: str) -> None:
    path = write_preferences(tmp_path / "p.parquet", rows)
    with pytest.raises(UserError, match=message):
        read_preferences(path)


def test_missing_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_preferences(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("not Parquet")
    with pytest.raises(UserError, match="cannot be read"):
        read_preferences(tmp_path / "text.parquet")


def test_windows_cover_each_epoch_in_its_own_order() -> None:
    first = list(windows(10, 4, seed=1, epoch=0))
    assert [len(window) for window in first] == [4, 4, 2]
    assert sorted(i for window in first for i in window) == list(range(10))
    assert list(windows(10, 4, seed=1, epoch=0)) == first
    assert list(windows(10, 4, seed=1, epoch=1)) != first
    assert list(windows(10, 4, seed=2, epoch=0)) != first


@pytest.mark.parametrize("tokens", [1, 60, 100, 10_000])
def test_microbatches_keep_groups_whole_and_within_the_budget(tmp_path: Path, tokens: int) -> None:
    rows = preference_rows(prompts=20, responses=3)
    groups = read_preferences(write_preferences(tmp_path / "p.parquet", rows)).groups
    batches = padded_batches(groups, tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(20))
    for batch in batches:
        padded = max(groups[i].longest for i in batch) * sum(len(groups[i].responses) for i in batch)
        assert len(batch) == 1 or padded <= tokens
    assert (len(batches) == 20) == (tokens <= 60)
