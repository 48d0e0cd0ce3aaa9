"""Every word of conf/objective goes two rounds through the flow; a moving reference is the average that it says."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from conf.compose import group_options
from flows.iterate import main
from storage.errors import UserError
from storage.manifest import read_manifest
from tests.flows.test_iterate import command, prompts, words  # noqa: F401  (a fixture)

WORDS = group_options("objective")
#: What a word needs besides the configuration of these tests.
MORE = {"rpo": ["objective.embedder=policy"]}


def go(method: str, tiny_policy: Path, prompts: Path, runs: Path, *more: str) -> Path:  # noqa: F811
    arguments = words(tiny_policy, prompts, runs, "engine=transformers", f"objective={method}", *more)
    done = command([*arguments, *MORE.get(method, [])])
    assert done.returncode == 0, done.stdout + done.stderr
    return runs / "small"


@pytest.mark.slow
@pytest.mark.parametrize("method", [word for word in WORDS if word != "ipo-md"])
def test_every_word_goes_two_rounds(method: str, tiny_policy: Path, prompts: Path, tmp_path: Path) -> None:  # noqa: F811
    run = go(method, tiny_policy, prompts, tmp_path / "runs", "rounds=2")
    start = load_file(tiny_policy / "model.safetensors")
    first, second = (load_file(run / f"round-0{n}/train/policy/model.safetensors") for n in (1, 2))
    assert any(not start[name].equal(first[name]) for name in start)
    assert any(not first[name].equal(second[name]) for name in start)
    assert read_manifest(run / "round-02/evaluate").summary["kl"]["mean"] is not None


def test_words_are_thirty_one_and_one_is_refused(tiny_policy: Path, prompts: Path, tmp_path: Path) -> None:  # noqa: F811
    assert len(WORDS) == 31
    with pytest.raises(UserError, match="online-ipo"):
        main(words(tiny_policy, prompts, tmp_path, "objective=ipo-md"))


def test_a_moving_reference_through_the_flow(tiny_policy: Path, prompts: Path, tmp_path: Path) -> None:  # noqa: F811
    """With SELM, whose extra response the reference gives."""
    moving = "objective.reference={kind: ema, rate: 0.25}"
    run = go("selm", tiny_policy, prompts, tmp_path / "runs", "rounds=2", moving, "training.learning_rate=1e-3")
    assert not (run / "round-01/reference").exists()
    start, once, moved = (
        load_file(folder / "model.safetensors")
        for folder in (tiny_policy, run / "round-01/train/policy", run / "round-02/reference/policy")
    )
    assert any(not start[name].equal(once[name]) for name in start)
    for name in start:
        assert moved[name].allclose(0.75 * start[name] + 0.25 * once[name], atol=1e-6)
    made = read_manifest(run / "round-02/reference")
    assert made.inputs["policy"] == read_manifest(run / "round-01/train").content
    assert read_manifest(run / "round-02/train").inputs["reference"] == made.content
