"""Copies of responses without key phrases: RAKE against its paper, what is taken out, and what the loss reads."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from storage.errors import UserError
from storage.stage import silent
from tasks.modeling.load import load_policy, load_tokenizer
from tasks.modeling.logprobs import TokenSequence, sequence_logprobs
from tasks.training.batching import PackedForward
from tasks.training.degrees import add_copies, label_tokens
from tasks.training.examples import collate
from tasks.training.groups import Pair, PromptGroup
from tasks.training.key_phrases import key_phrases, without
from tasks.training.trainer import run
from tasks.training.training_data import TrainingData
from tests.training.conftest import MakeSpec
from tests.training.preference_rows import preference_row, preference_rows

#: The abstract that the paper takes as its example, and the scores that it prints (figure 1.3, one decimal).
ABSTRACT = """Compatibility of systems of linear constraints over the set of natural numbers. Criteria of compatibility
of a system of linear Diophantine equations, strict inequations, and nonstrict inequations are considered. Upper bounds
for components of a minimal set of solutions and algorithms of construction of minimal generating sets of solutions for
all types of systems are given. These criteria and the corresponding algorithms for constructing a minimal supporting
set of solutions can be used in solving all the considered types of systems and systems of mixed types.""".replace(
    "\n", " "
)
PRINTED = {
    "minimal generating sets": 8.7,
    "linear diophantine equations": 8.5,
    "minimal supporting set": 7.7,
    "minimal set": 4.7,
    "linear constraints": 4.5,
    "natural numbers": 4.0,
    "strict inequations": 4.0,
    "nonstrict inequations": 4.0,
    "upper bounds": 4.0,
    "mixed types": 3.7,
    "corresponding algorithms": 3.5,
    "considered types": 3.2,
}
LABELS = ("0", "1", "2", "3")
TEXTS = ("The tall red house stands near an old stone bridge.", "It is so.", "Seven apples, seven pears and milk.")


def test_scores_are_those_of_the_paper() -> None:
    found = [(" ".join(phrase.words), round(phrase.score + 1e-9, 1)) for phrase in key_phrases(ABSTRACT)]
    assert dict(found[: len(PRINTED)]) == PRINTED


def test_phrases_are_taken_out_where_they_occur() -> None:
    text = "Red wine is fine.  RED WINE, and don’t forget a cork-screw\nred"
    phrases = key_phrases(text)
    assert {" ".join(phrase.words) for phrase in phrases} == {"red wine", "forget", "fine", "cork-screw", "red"}
    assert without(text, [phrase for phrase in phrases if phrase.words == ("red", "wine")]) == (
        "is fine.  , and don’t forget a cork-screw\nred"
    )
    assert without(text, []) == text
    assert key_phrases("It is so. And that!") == []


def encoded(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]


def group_of(tokenizer: PreTrainedTokenizerBase) -> PromptGroup:
    responses = [np.array(encoded(tokenizer, text), dtype=np.int32) for text in TEXTS]
    responses[2] = responses[2][:-1]  # cut off: it has no end token
    prompt = np.array([5, 6, 7], dtype=np.int32)
    return PromptGroup("a", 1, prompt, [0, 1, 4], responses, [Pair(0, 1, 1.0), Pair(2, 1, 0.5)])


def copies(tokenizer: PreTrainedTokenizerBase, seed: int) -> PromptGroup:
    end = tokenizer.eos_token_id
    labels = label_tokens(tokenizer, LABELS)
    (group,) = add_copies([group_of(tokenizer)], tokenizer, ends=[end], end=end, labels=labels, seed=(seed,))
    return group


def test_a_copy_lacks_as_many_phrases_as_its_label_says(tiny_policy: Path) -> None:
    tokenizer = load_tokenizer(tiny_policy)
    labels = label_tokens(tokenizer, LABELS)
    seen: list[set[int]] = [set(), set(), set()]
    for seed in range(40):
        group = copies(tokenizer, seed)
        assert group.indices == [0, 1, 4, -2, -3, -6]
        assert group.pairs == group_of(tokenizer).pairs
        for number, (text, copy) in enumerate(zip(TEXTS, group.responses[3:], strict=True)):
            missing = labels.index(int(copy[-1]))
            seen[number].add(missing)
            expected = without(text, key_phrases(text)[:missing])
            assert copy[:-1].tolist() == encoded(tokenizer, expected)
    assert seen == [{0, 1, 2}, {0}, {0, 1, 2, 3}]
    assert [ids.tolist() for ids in copies(tokenizer, 5).responses] == [
        ids.tolist() for ids in copies(tokenizer, 5).responses
    ]


def test_label_words_must_be_tokens(tiny_policy: Path) -> None:
    tokenizer = load_tokenizer(tiny_policy)
    for words in (("0", "none at all"), ("0", "0"), ("", "1")):
        with pytest.raises(UserError, match="one token each") as refused:
            label_tokens(tokenizer, words)
        assert "objective.labels=" in str(refused.value)


def rows(tokenizer: PreTrainedTokenizerBase, prompts: int = 4) -> list[dict[str, Any]]:
    replies = [encoded(tokenizer, text) for text in TEXTS]
    made = [row["prompt_ids"] for row in preference_rows(prompts=prompts, responses=2)]
    return [
        preference_row(f"{number:016x}", prompt, replies, chosen, 1, 1.0)
        for number, prompt in enumerate(made)
        for chosen in (0, 2)
    ]


def test_the_loss_reads_the_label_word_after_each_copy(make_spec: MakeSpec, tiny_policy: Path) -> None:
    """Against single-sequence forwards: log pi(copy with its label) - log pi(copy without it)."""
    tokenizer = load_tokenizer(tiny_policy)
    spec = make_spec(objective={"name": "spo"}, rows=rows(tokenizer))
    model = load_policy(tiny_policy, dtype="float32", device="cpu")
    forward = PackedForward(model, 4096)
    spec.folder.mkdir()
    examples, _ = TrainingData.of(spec).examples(forward, lambda folder: forward, nullcontext, silent)
    batch = collate(examples, torch.device("cpu"))
    assert batch.copies is not None
    found = batch.copy_labels()
    at = 0
    for example in examples:
        group = example.group
        for number in range(3):
            copy = group.responses[3 + number]
            whole, cut = (
                sequence_logprobs(model, [TokenSequence(group.prompt_ids, ids)], tokens=1)[0]
                for ids in (copy, copy[:-1])
            )
            assert float(found[at + number]) == pytest.approx(whole - cut, abs=1e-4)
        at += len(group.responses)


def test_training_learns_how_much_is_missing(make_spec: MakeSpec, tiny_policy: Path) -> None:
    """With gamma the label words become likely, the pairs are learnt as well, and without it the run is DPO's."""
    given = rows(load_tokenizer(tiny_policy), prompts=8)
    optimization = {"epochs": 10, "learning_rate": 3e-3}
    finals = {}
    for gamma in (0.0, 1.0):
        objective = {"name": "spo", "gamma": gamma}
        manifest = run(make_spec(f"spo-{gamma}", objective=objective, rows=given, optimization=optimization))
        finals[gamma] = manifest.summary
    plain = run(make_spec("dpo", objective={"name": "dpo", "beta": 0.1}, rows=given, optimization=optimization))
    assert finals[0.0]["last"]["margin"] == pytest.approx(plain.summary["last"]["margin"], rel=1e-3)
    assert finals[1.0]["first"]["loss"] > 4  # a label word is one of 300 tokens
    assert finals[1.0]["last"]["loss"] < 2
    assert finals[1.0]["last"]["margin"] > 0
