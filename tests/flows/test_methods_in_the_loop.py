"""Every word of conf/objective goes two rounds through the flow; a moving reference is the average that it says."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from conf.compose import group_options
from flows.iterate import main
from storage.errors import UserError
from storage.manifest import read_manifest
from tests.flows.test_iterate import command_of, words

WORDS = group_options("objective")
#: What a word needs besides the configuration of these tests.
MORE = {
    "rpo": ["objective.embedder=policy"],
    "bvpo": ["drafts=traces"],
    "c-rlft": ["recipe=c-rlft"],
}


@pytest.fixture
def given(tiny_policy: Path, tmp_path: Path) -> list[str]:
    """Words of a small run of two rounds."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Say {i}", "answer": str(i)}) + "\n" for i in range(40)))
    more = ("engine=transformers", "rounds=2", "training.learning_rate=1e-3")
    return words(tiny_policy, prompts, tmp_path / "runs", *more)


def check(run: Path, start: Path) -> None:
    """Both rounds trained and were evaluated."""
    policies = [start, *(run / f"round-0{n}/train/policy" for n in (1, 2))]
    one, two, three = (load_file(folder / "model.safetensors") for folder in policies)
    assert any(not one[name].equal(two[name]) for name in one)
    assert any(not two[name].equal(three[name]) for name in one)
    assert read_manifest(run / "round-02/evaluate").summary["kl"]["mean"] != 0


@pytest.mark.slow
@pytest.mark.parametrize("method", WORDS)
def test_every_word_goes_two_rounds(method: str, given: list[str], tiny_policy: Path, tmp_path: Path) -> None:
    done = command_of("flows.iterate", [*given, f"objective={method}", *MORE.get(method, [])])
    assert done.returncode == 0, done.stdout + done.stderr
    check(tmp_path / "runs" / "small", tiny_policy)


@pytest.mark.parametrize("method", ["ipo-md", "nash-md"])
def test_a_mixture_needs_an_engine_that_mixes(method: str, given: list[str]) -> None:
    with pytest.raises(UserError, match="online-ipo") as refused:
        main([*given, "engine=vllm-small", f"objective={method}"])
    assert "engine=transformers" in str(refused.value)


def test_label_words_of_spo_are_looked_up_before_the_run(given: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one token each"):
        main([*given, "objective=spo", "objective.labels=[none at all,no]"])
    assert not list((tmp_path / "runs").rglob("responses-*.parquet"))


@pytest.mark.slow
def test_methods_of_several_kinds_and_a_moving_reference(given: list[str], tiny_policy: Path, tmp_path: Path) -> None:
    """One with two references, and one with an extra response, which a moving reference gives."""
    moving = "selm objective.reference={kind: ema, rate: 0.25}"
    rest = [word for word in given if not word.startswith("name=")]
    done = command_of("flows.compare", [f"methods=[inpo,{moving}]", "name=kinds", *rest])
    assert done.returncode == 0, done.stdout + done.stderr
    runs = {file.parent.name.split("-")[0]: file.parent for file in (tmp_path / "runs/kinds").glob("*/rounds.json")}
    assert set(runs) == {"inpo", "selm"}
    for run in runs.values():
        check(run, tiny_policy)
    run = runs["selm"]
    assert not (run / "round-01/reference").exists()
    folders = (tiny_policy, run / "round-01/train/policy", run / "round-02/reference/policy")
    start, once, moved = (load_file(folder / "model.safetensors") for folder in folders)
    for name in start:
        assert moved[name].allclose(0.75 * start[name] + 0.25 * once[name], atol=1e-6)
    made = read_manifest(run / "round-02/reference")
    assert made.inputs["trained"] == read_manifest(run / "round-01/train").content
    assert read_manifest(run / "round-02/train").inputs["reference"] == made.content
