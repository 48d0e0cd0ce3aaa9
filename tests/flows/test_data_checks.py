"""What a run says of its prompts and its offline set before anything is sampled."""

import json
from pathlib import Path
from typing import Any

import pytest

from conf.compose import compose_config
from flows import data_checks
from flows.data_checks import check_offline, show_prompts
from flows.plan import Plan
from flows.specs import prompts_spec
from storage.artifact import Artifact
from storage.errors import UserError
from tasks.generation.prompts import prompt_artifacts, run_prompts

PAIR = {"prompt": "Ask?", "chosen": "yes", "rejected": "no"}


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_checks, "_done", set())


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def plan_of(policy: Path, prompts: Path, *words: str) -> Plan:
    given = [f"policy={policy}", f"prompts={prompts}", f"runs={prompts.parent}", "name=mine", "panel=rules", *words]
    return Plan(compose_config(given), Artifact.of(policy))


def words_of(text: str) -> str:
    return " ".join(text.split())


def test_rows_of_prompts_are_counted_recorded_and_shown_once(
    tiny_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"Say {i}", "answer": str(i)} for i in range(20)]
    rows += [{"prompt": "Say 1", "answer": "1"}, {"prompt": "Say 2", "answer": "two"}, {"prompt": "Say 3"}]
    held = [{"prompt": "Say 4", "answer": "4"}, {"prompt": "Tell me", "answer": "no"}, {"prompt": "word " * 400}]
    plan = plan_of(
        tiny_policy,
        write(tmp_path / "p.jsonl", rows),
        f"prompts.heldout={write(tmp_path / 'h.jsonl', held)}",
        "prompts.too_long=drop",
        "evaluation=plain",
    )
    spec = prompts_spec(plan, *prompt_artifacts(plan.config.prompts), context=256)
    spec = type(spec)(**dict(spec) | {"max_tokens": 16})
    manifest = run_prompts(spec)
    counts = {"rows_read": 26, "repeated": 3, "conflicting": 2, "shared_with_heldout": 1, "dropped_too_long": 1}
    assert counts.items() <= manifest.summary.items()
    show_prompts(spec.folder, manifest)
    show_prompts(spec.folder, manifest)
    assert words_of(capsys.readouterr().out) == (
        "prompts: 26 rows read, 19 to train on, 2 held out; 3 with the prompt of an earlier row, left out; "
        "2 of these with another answer than the first; 1 held out by the file of held-out prompts; "
        "1 too long, left out"
    )


def offline(path: Path) -> str:
    return f"+mixing.offline={{path: {path}, share: 0.25, p_hat: 0.9}}"


def test_an_offline_set_is_read_before_the_first_round(
    tiny_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write(tmp_path / "p.jsonl", [{"prompt": "Say 1"}])
    bad = write(tmp_path / "bad.jsonl", [PAIR, PAIR | {"chosen": None}])
    with pytest.raises(UserError, match="no chosen") as caught:
        check_offline(plan_of(tiny_policy, prompts, offline(bad), "evaluation=plain"))
    assert caught.value.where == f"{bad}:2"
    rows = [PAIR, PAIR, PAIR | {"chosen": "no", "rejected": "yes"}, PAIR | {"rejected": "yes"}]
    good = plan_of(tiny_policy, prompts, offline(write(tmp_path / "good.jsonl", rows)), "evaluation=plain")
    check_offline(good)
    check_offline(good)
    assert words_of(capsys.readouterr().out) == (
        "offline set: 4 rows read; 1 left out, because both responses are equal; 1 the same as an earlier pair; "
        "1 an earlier pair the other way round"
    )


def test_an_offline_folder_that_is_missing_is_refused(tiny_policy: Path, tmp_path: Path) -> None:
    prompts = write(tmp_path / "p.jsonl", [{"prompt": "Say 1"}])
    with pytest.raises(UserError, match="no such file or folder") as caught:
        check_offline(plan_of(tiny_policy, prompts, offline(tmp_path / "absent"), "evaluation=plain"))
    assert caught.value.where == str(tmp_path / "absent")
