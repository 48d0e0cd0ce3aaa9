"""Supervised fine-tuning: the trained tokens, the value of the loss, the schedule, and the written folder."""

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import AutoModelForCausalLM, AutoTokenizer

from storage.errors import UserError
from tasks.modeling.load import load_policy, load_tokenizer
from tasks.training.conversations import encode, encode_rows
from tasks.training.supervised import SupervisedSettings, fine_tune, length_buckets, rate_at, train_supervised

ROWS: list[dict[str, Any]] = [
    {"prompt": "what is the sum", "completion": "a kind reply"},
    {"messages": [{"role": "user", "content": "numbers"}, {"role": "assistant", "content": "the answer is not known"}]},
    {"prompt": "to the reader", "completion": [{"role": "assistant", "content": "short"}]},
    {
        "prompt": [{"role": "user", "content": "and a long one"}],
        "completion": "one is better than a rude one, and kind",
    },
]


def settings(**changes: object) -> SupervisedSettings:
    return SupervisedSettings.model_validate({"steps": 1, "learning_rate": 1e-3, "batch_size": 4} | changes)


def test_only_assistant_text_and_end_tokens_are_trained(tiny_policy: Path) -> None:
    tokenizer = load_tokenizer(tiny_policy)
    turns = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "four"},
    ]
    encoded = encode(tokenizer, {"messages": turns})
    trained = [token for token, is_trained in zip(encoded.ids, encoded.trained, strict=True) if is_trained]
    assert tokenizer.decode(trained) == "two<|im_end|>four<|im_end|>"
    text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    assert tokenizer.decode(encoded.ids) == text.removesuffix("\n")
    prompt = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert encoded.ids[: len(prompt_ids)] == prompt_ids


def test_loss_is_the_mean_over_reply_tokens(tiny_policy: Path) -> None:
    tokenizer = load_tokenizer(tiny_policy)
    model = load_policy(tiny_policy, dtype="float32", device="cpu")
    losses = []
    for row, reply in zip(
        ROWS, ("a kind reply", "the answer is not known", "short", ROWS[3]["completion"]), strict=True
    ):
        question = row["messages"][0]["content"] if "messages" in row else row["prompt"]
        question = question if isinstance(question, str) else question[0]["content"]
        before = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        start, ids = (
            tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, f"{before}{reply}<|im_end|>")
        )
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        losses += [-logprobs[i - 1, ids[i]].item() for i in range(len(start), len(ids))]
    (first,) = train_supervised(model, tokenizer, ROWS, settings())
    assert first == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_loss_falls_and_the_reply_is_learned(tiny_policy: Path) -> None:
    tokenizer = load_tokenizer(tiny_policy)
    model = load_policy(tiny_policy, dtype="float32", device="cpu")
    losses = train_supervised(model, tokenizer, ROWS, settings(steps=60, learning_rate=5e-3))
    assert losses[0] > 2
    assert losses[-1] < 0.1
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "what is the sum"}], tokenize=False, add_generation_prompt=True
    )
    prompt = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    generate = cast("Callable[..., torch.Tensor]", model.generate)  # in transformers' types only GenerationMixin has it
    output = generate(**prompt, do_sample=False, max_new_tokens=20)[0]
    assert tokenizer.decode(output[prompt["input_ids"].shape[1] :]) == "a kind reply<|im_end|>"


def test_micro_batches_change_nothing(tiny_policy: Path) -> None:
    tokenizer = load_tokenizer(tiny_policy)
    single, split = (load_policy(tiny_policy, dtype="float32", device="cpu").double() for _ in range(2))
    train_supervised(single, tokenizer, ROWS, settings(steps=3))
    train_supervised(split, tokenizer, ROWS, settings(steps=3, microbatch_tokens=1))
    for one, other in zip(single.parameters(), split.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_tokens_have_equal_weight_in_every_batch(tiny_policy: Path) -> None:
    """The mean gradient over an epoch of small batches equals the gradient of one batch, although lengths differ."""
    tokenizer = load_tokenizer(tiny_policy)

    def step(rows: list[dict[str, object]], batch_size: int) -> list[torch.Tensor]:
        model = load_policy(tiny_policy, dtype="float32", device="cpu")
        gradients: list[torch.Tensor] = [torch.zeros_like(p) for p in model.parameters()]

        def collect(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
            for total, parameter in zip(gradients, model.parameters(), strict=True):
                assert parameter.grad is not None
                total += parameter.grad * batch_size / len(rows)

        handle = register_optimizer_step_pre_hook(collect)
        try:
            train_supervised(
                model,
                tokenizer,
                rows,
                settings(epochs=1, steps=None, batch_size=batch_size, learning_rate=1e-12, max_grad_norm=1e9),
            )
        finally:
            handle.remove()
        return gradients

    for one, other in zip(step(ROWS, 4), step(ROWS, 1), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_folder_is_complete_and_reproducible(tiny_policy: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        fine_tune(tiny_policy, ROWS, tmp_path / name, settings(steps=6, batch_size=1), device="cpu")
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_policy, tmp_path / "a"))
    assert any(not torch.equal(before[name], after[name]) for name in after)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    assert model.generation_config.eos_token_id == [AutoTokenizer.from_pretrained(tmp_path / "a").eos_token_id]
    fine_tune(tiny_policy, ROWS, tmp_path / "c", settings(steps=6, batch_size=1, seed=1), device="cpu")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() != (tmp_path / "c" / "model.safetensors").read_bytes()


def test_chat_template_argument_is_used_and_saved(tiny_policy: Path, tmp_path: Path) -> None:
    template = tmp_path / "turns.jinja"
    template.write_text(
        "{%- for message in messages -%}[{{ message['role'] }}]{{ message['content'] + eos_token }}{%- endfor -%}"
        "{%- if add_generation_prompt -%}[assistant]{%- endif -%}"
    )
    fine_tune(tiny_policy, ROWS, tmp_path / "out", settings(), chat_template=template, device="cpu")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    turns = [{"role": "user", "content": "one"}]
    assert (
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        == "[user]one<|im_end|>[assistant]"
    )


def test_batches_hold_each_row_once_per_epoch_and_similar_lengths() -> None:
    lengths = [10, 50] * 40
    batches = list(length_buckets(lengths, 8, 25, seed=3))
    assert len(batches) == 25
    assert Counter(index for batch in batches[:10] for index in batch) == Counter(range(80))
    assert all(len({lengths[i] for i in batch}) == 1 for batch in batches)
    assert batches[:10] != batches[10:20]
    assert batches == list(length_buckets(lengths, 8, 25, seed=3))
    assert batches != list(length_buckets(lengths, 8, 25, seed=4))


@pytest.mark.parametrize(("schedule", "middle"), [("cosine", 0.5), ("linear", 0.5), ("constant", 1.0)])
def test_learning_rate_warms_up_and_falls(schedule: str, middle: float) -> None:
    changed = settings(schedule=schedule, learning_rate=1.0, warmup_ratio=0.2)
    rates = [rate_at(step, 100, changed) for step in range(100)]
    assert rates[:20] == pytest.approx([(step + 1) / 21 for step in range(20)])
    assert rates[20] == 1.0
    assert rates[60] == pytest.approx(middle)
    assert rates[-1] == pytest.approx(
        {"cosine": 0.5 * (1 - math.cos(math.pi / 80)), "linear": 1 / 80}.get(schedule, 1.0)
    )


def test_settings_need_steps_or_epochs_and_refuse_unknown_fields() -> None:
    assert SupervisedSettings(epochs=2, batch_size=32).total_steps(33) == 4
    assert SupervisedSettings(steps=7).total_steps(33) == 7
    invalid: list[dict[str, object]] = [
        {},
        {"epochs": 1, "steps": 1},
        {"steps": 1, "lr": 1e-3},
        {"steps": 1, "dtype": "float16"},
    ]
    for fields in invalid:
        with pytest.raises(ValidationError):
            SupervisedSettings.model_validate(fields)


def test_unusable_rows_are_refused(tiny_policy: Path) -> None:
    tokenizer = load_tokenizer(tiny_policy)
    with pytest.raises(UserError, match="nothing to train on"):
        encode_rows(tokenizer, [], 100)
    with pytest.raises(UserError, match="row 2"):
        encode_rows(tokenizer, [ROWS[0], {"prompt": "one", "completion": "two " * 100}], 60)
    with pytest.raises(UserError, match="no assistant turn"):
        encode(tokenizer, {"messages": [{"role": "user", "content": "one"}]})
    with pytest.raises(UserError, match=r"\['text'\]"):
        encode(tokenizer, {"text": "one"})


def test_unusable_chat_templates_are_refused(tiny_policy: Path) -> None:
    tokenizer = load_tokenizer(tiny_policy)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    with pytest.raises(UserError, match="does not end the assistant's turn"):
        encode(tokenizer, ROWS[0])
    tokenizer.chat_template = "{{ messages | length }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    with pytest.raises(UserError, match="the prompt is not its beginning"):
        encode(tokenizer, ROWS[0])


def test_settings_survive_json() -> None:
    changed = settings(steps=5)
    assert SupervisedSettings.model_validate(json.loads(changed.model_dump_json())) == changed
