"""Tasks that do not fit into a policy's context are refused before the policy is loaded."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from storage.errors import UserError
from tasks.evaluation.harness.context import check_context, context_of


@dataclass
class Questions:
    """A task of lm-eval, as far as it is read: questions of so many words."""

    words: list[int]
    OUTPUT_TYPE: str = "generate_until"
    generation_kwargs: dict[str, Any] | None = field(default_factory=dict)

    @property
    def eval_docs(self) -> list[int]:
        return self.words

    @property
    def config(self) -> SimpleNamespace:
        return SimpleNamespace(generation_kwargs=self.generation_kwargs, metric_list=[])

    def doc_to_text(self, doc: int) -> str:
        return "word " * doc


def words(text: str) -> int:
    return len(text.split())


def test_the_reply_takes_its_part_of_the_context() -> None:
    task = Questions([10, 20, 30], generation_kwargs={"max_gen_toks": 100})
    check_context("small", task, 120, words)
    with pytest.raises(
        UserError, match="needs 100 tokens of a reply and 20 tokens for half of its questions"
    ) as refused:
        check_context("small", task, 119, words)
    assert "context has 119" in str(refused.value)
    with pytest.raises(UserError, match="needs 256 tokens of a reply"):  # what lm-eval reserves by itself
        check_context("small", Questions([1]), 256, words)
    with pytest.raises(UserError, match="needs 512 tokens of a reply"):
        check_context("small", Questions([1], generation_kwargs={"max_new_tokens": 512}), 500, words)


def test_scored_texts_need_no_room_for_a_reply_and_one_long_question_is_no_reason() -> None:
    check_context("choice", Questions([10, 10, 500], "multiple_choice"), 10, words)
    with pytest.raises(UserError, match="needs 10 tokens for half"):
        check_context("choice", Questions([10, 10, 500], "multiple_choice"), 9, words)


@pytest.mark.parametrize(
    ("own", "told", "context"), [(256, {}, 256), (256, {"max_model_len": 128}, 128), (None, {"max_length": 64}, 64),
                                 (None, {}, None)]
)  # fmt: skip
def test_context_is_the_smaller_of_told_and_own(own: int | None, told: dict[str, object], context: int | None) -> None:
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=own))
    assert context_of(config, told) == context


def test_the_worker_refuses_before_it_loads(tmp_path: Path, tiny_policy: Path) -> None:
    from tasks.evaluation.harness import worker

    request = worker.Evaluate(
        policy_digest="d", backend="transformers", device="cpu", tasks=[], include=[], data={}, batch_size=1,
        model_args={"pretrained": str(tiny_policy), "trust_remote_code": False},
        chat_template=False, limit=None, work=tmp_path,
    )  # fmt: skip
    count, context = worker._tokenizer_and_context(request)
    assert context is not None
    assert count("one two three") >= 1
    task = Questions([5], generation_kwargs={"max_gen_toks": context})
    manager = SimpleNamespace(load=lambda sources: {"tasks": {"long": task}})
    with pytest.raises(UserError, match=f"context has {context}"):
        worker._check(manager, "long", count, context)
