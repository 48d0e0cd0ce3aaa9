"""A path that is not there is refused from the words alone, before anything slow; an id on the hub is not."""

from pathlib import Path

import pytest

from conf.compose import compose_config
from flows.early_checks import check_early, is_path
from flows.train_words import train_words
from storage.errors import UserError

SMALL = ("panel=rules", "evaluation=plain", "engine=transformers", "training.device=cpu")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "Say 1"}\n')
    return path


def test_a_policy_that_is_not_there(prompts: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder") as refused:
        check_early(compose_config(["policy=/no/where", f"prompts={prompts}", *SMALL]))
    assert refused.value.where == "policy.path=/no/where"


def test_prompts_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file or folder") as refused:
        check_early(compose_config([f"policy={tmp_path}", "prompts=mine.jsonl", *SMALL]))
    assert refused.value.where == "prompts.path=mine.jsonl"


def test_pairs_that_are_not_there(tmp_path: Path) -> None:
    words = [f"policy={tmp_path}", f"data={tmp_path / 'none'}", "engine=transformers", "training.device=cpu"]
    with pytest.raises(UserError, match="there is no such file or folder") as refused:
        check_early(compose_config(train_words(words)))
    assert refused.value.where.startswith("data.path=")


def test_ids_and_what_a_run_makes_are_left_to_later_checks(prompts: Path) -> None:
    check_early(compose_config(["policy=owner/name", f"prompts={prompts}", *SMALL]))
    check_early(compose_config(["policy=name", "prompts=owner/set", *SMALL]))
    check_early(compose_config(["run=demo", "seed=87", "engine=transformers", "training.device=cpu"]))
    check_early(compose_config(["policy=/no/where", f"prompts={prompts}", "dry_run=plan", *SMALL]))


@pytest.mark.parametrize(
    ("text", "path"),
    [("gpt2", False), ("owner/name-1.5", False), ("./x", True), ("../x", True), ("~/x", True), ("a/b/c", True),
     ("x.parquet", True), ("x.jsonl.gz", True)],
)  # fmt: skip
def test_what_can_only_be_a_path(text: str, path: bool) -> None:
    assert is_path(text) is path
