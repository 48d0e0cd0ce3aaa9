"""Methods compared for real: shared beginnings, resumption, the table and the drawing; and what is refused at once."""

import json
from pathlib import Path

import pytest

from flows.compare import apart, main, slug
from storage.errors import UserError
from tests.flows.test_iterate import command_of, words


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Say {i}", "answer": str(i)}) + "\n" for i in range(40)))
    return path


@pytest.mark.slow
def test_methods_are_compared_on_the_same_responses_and_votes(tiny_policy: Path, prompts: Path, tmp_path: Path) -> None:
    rest = [word for word in words(tiny_policy, prompts, tmp_path / "runs") if not word.startswith("name=")]
    judge = "+evaluation.judges.brief={kind: rule, shorter: true}"
    arguments = ["methods=[irepo,irepo objective.beta=0.5,dpo]", "seeds=[0,1]", "name=few", *rest, "rounds=1", judge]
    done = command_of("flows.compare", [*arguments, "engine=transformers"])
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "runs" / "few"
    runs = [folder / f"{method}-{seed}" for seed in (0, 1) for method in ("irepo", "irepo-objective.beta-0.5", "dpo")]
    assert all((run / "rounds.json").is_file() for run in runs)
    for stage in ("round-00/evaluate", "round-01/generate", "round-01/label"):
        manifests = [(run / stage / "manifest.json").stat().st_ino for run in runs]
        assert len(set(manifests[:3])) == len(set(manifests[3:])) == 1  # made once a seed
        assert manifests[0] != manifests[3]
    policies = [(run / "round-01/train/policy/model.safetensors").read_bytes() for run in runs[:3]]
    assert len(set(policies)) == 3
    result = json.loads((folder / "compare.json").read_text())
    assert set(result) == {"irepo", "irepo-objective.beta-0.5", "dpo"}
    assert result["dpo"][0]["win vs initial (brief)"]["half"] is not None
    assert "dpo, round 1" in (folder / "methods.svg").read_text()
    assert "win vs initial (brief)" in done.stdout
    weights = (runs[0] / "round-01/train/policy/model.safetensors").stat().st_mtime_ns
    (runs[-1] / "round-01/train/manifest.json").unlink()
    again = command_of("flows.compare", [*arguments, "engine=transformers"])
    assert again.returncode == 0, again.stdout + again.stderr
    assert (runs[0] / "round-01/train/policy/model.safetensors").stat().st_mtime_ns == weights
    second = json.loads((folder / "compare.json").read_text())
    assert second["irepo"][0]["KL (nats)"] == result["irepo"][0]["KL (nats)"]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["seeds=[0]"], "no methods are named"),
        (["methods=[]"], "no methods are named"),
        (["methods=[irepo,nope]"], "there is no method 'nope'"),
        (["methods=[irepo,irepo]"], "two methods are the same"),
        (["methods=[irepo]", "seeds=[a]"], "a seed is no number"),
    ],
)
def test_mistakes_are_told_at_once(given: list[str], named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=named):
        main([*given, "run=demo", f"runs={tmp_path}"])


def test_a_method_is_a_folder_name() -> None:
    assert slug("irepo objective.beta=0.3 training.epochs=2") == "irepo-objective.beta-0.3-training.epochs-2"
    long = [f"irepo {'~panel.annotators.one ' * 14}seed={seed}" for seed in (1, 2)]
    assert len({slug(method) for method in long}) == 2
    assert max(len(slug(method)) for method in long) == 100


def test_words_of_a_method_may_have_commas_and_spaces() -> None:
    method = "dpo preferences.keep={share: 0.7, margin_of: {now: 1}} 'a, b'=[c, d]"
    assert apart(f"irepo, {method}", ",") == ["irepo", method]
    assert apart(method, " ") == ["dpo", "preferences.keep={share: 0.7, margin_of: {now: 1}}", "'a, b'=[c, d]"]
