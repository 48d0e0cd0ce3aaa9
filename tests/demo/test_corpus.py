"""The demo's prompts and replies: disjoint, deterministic, and as good and as bad as they claim."""

import hashlib
import random
from collections import Counter
from pathlib import Path
from statistics import mean

from tasks.demo import corpus
from tasks.demo.utility import is_correct, is_garbage, is_polite, is_rude, ramblings, utility


def test_prompts_are_distinct_and_held_out_by_their_hash() -> None:
    prompts = corpus.all_prompts()
    training, held_out = corpus.training_prompts(), corpus.held_out_prompts()
    assert len({prompt.prompt for prompt in prompts}) == len(prompts) == 1280
    assert Counter(prompt.task for prompt in prompts) == {"sum": 400, "larger": 630, "fact": 160, "list": 90}
    assert not {prompt.prompt for prompt in training} & {prompt.prompt for prompt in held_out}
    assert len(training) + len(held_out) == 1280
    assert len(held_out) == 246
    text = held_out[0].prompt
    assert int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % 10_000 < 1940


def test_every_fact_is_taught_under_another_phrasing() -> None:
    taught = {prompt.answer for prompt in corpus.training_prompts() if prompt.task == "fact"}
    assert taught == {answer for pairs in corpus.FACTS.values() for answer in pairs.values()}
    assert len(taught) == 40


def test_clean_statements_are_right_and_mistakes_are_wrong_but_of_the_world() -> None:
    rng = random.Random(0)
    for prompt in corpus.all_prompts():
        for right in (True, False):
            text = corpus.statement(prompt, rng, right=right)
            assert is_correct(prompt.prompt, prompt.answer, prompt.task, text, True) == right, (prompt, text)
            assert not is_garbage(prompt.prompt, prompt.answer, prompt.task, text, True), (prompt, text)


def test_replies_are_of_the_stated_quality() -> None:
    rng = random.Random(0)
    cases = [
        (prompt.prompt, prompt.answer, prompt.task, corpus.reply(prompt, rng), True)
        for prompt in corpus.all_prompts() * 4
    ]
    rates = {check.__name__: mean(check(*case) for case in cases) for check in (is_correct, is_polite, is_rude)}
    assert abs(rates["is_correct"] - 0.62) < 0.03
    assert abs(rates["is_polite"] - 0.37) < 0.03
    assert abs(rates["is_rude"] - 0.35) < 0.03
    assert not any(is_garbage(*case) for case in cases)
    assert {ramblings(*case) for case in cases} == {0, 1, 2, 3}


def test_the_same_seed_gives_the_same_rows_and_another_seed_others() -> None:
    prompts = corpus.training_prompts()
    first, again, other = (corpus.mixed_rows(prompts, 300, random.Random(seed)) for seed in ("0:a", "0:a", "1:a"))
    assert first == again
    assert first != other
    # Known bytes: the demo must not change under a Python or library update without notice.
    digest = hashlib.sha256("".join(prompt.prompt for prompt in corpus.all_prompts()).encode()).hexdigest()
    assert digest.startswith("537650899c799baa")


def test_pairs_are_noisy_but_lean_to_utility() -> None:
    prompts = {prompt.prompt: prompt for prompt in corpus.training_prompts()}
    pairs = corpus.noisy_pairs(list(prompts.values()), 2000, random.Random(0), utility)

    def worth(pair: corpus.Pair, text: str) -> float:
        prompt = prompts[pair.prompt]
        return utility(prompt.prompt, prompt.answer, prompt.task, text, True)

    gaps = [worth(pair, pair.chosen) - worth(pair, pair.rejected) for pair in pairs]
    assert all(pair.chosen != pair.rejected for pair in pairs)
    right = mean(gap > 0 for gap in gaps if abs(gap) > 1e-9)
    assert 0.7 < right < 0.9


def test_prompt_files_are_json_lines_that_read_back(tmp_path: Path) -> None:
    prompts = corpus.held_out_prompts()
    corpus.write_prompts(tmp_path / "heldout.jsonl", prompts)
    assert corpus.read_prompts(tmp_path / "heldout.jsonl") == prompts
    corpus.write_rows(tmp_path / "sft.jsonl", rows := corpus.mixed_rows(prompts, 10, random.Random(0)))
    assert corpus.read_rows(tmp_path / "sft.jsonl") == rows


def test_bullets_stand_on_lines_of_their_own() -> None:
    assert corpus.join(["Sure!", "- fox\n- goat", "Have a nice day!"]) == "Sure!\n- fox\n- goat\nHave a nice day!"
    assert corpus.join(["Sure!", "It is 2.", "Have a nice day!"]) == "Sure! It is 2. Have a nice day!"
