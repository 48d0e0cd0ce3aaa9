"""Prompts and replies as token ids, for templates of many families: the ids of the conversation rendered once."""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from storage.errors import UserError
from tasks.modeling.conversation import RefusedConversation, encode_chat, encode_reply, encode_whole, turn_end
from tasks.modeling.load import load_tokenizer
from tests.modeling.families import CHATML, THINKING, byte_level, families

QUESTION = [{"role": "user", "content": "What is the sum ?"}]
SEVERAL = [*QUESTION, {"role": "assistant", "content": "I am not sure ."}, {"role": "user", "content": "Is it 7 ?"}]
REPLY = "The sum is 7 ."


def whole(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]]) -> list[int]:
    """Ids of the whole conversation, rendered once."""
    ids: list[int] = tokenizer(str(tokenizer.apply_chat_template(messages, tokenize=False)), add_special_tokens=False)[
        "input_ids"
    ]
    return ids


@pytest.mark.parametrize("name", families())
@pytest.mark.parametrize("messages", [QUESTION, SEVERAL], ids=["one turn", "several"])
def test_a_reply_is_what_follows_the_prompt_in_the_conversation(name: str, messages: list[dict[str, str]]) -> None:
    family = families()[name]
    tokenizer = family.tokenizer()
    ids = whole(tokenizer, [*messages, {"role": "assistant", "content": REPLY}])
    header = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    prompt = tokenizer(header, add_special_tokens=False)["input_ids"]
    end = tokenizer.get_vocab()[family.end]
    reply = ids[len(prompt) :]
    reply = reply[: reply.index(end) + 1]
    assert ids[: len(prompt)] == prompt

    encoded = encode_reply(tokenizer, messages, REPLY)
    assert encoded.prompt_ids == encode_chat(tokenizer, messages) == prompt
    assert encoded.reply_ids == reply
    assert encode_reply(tokenizer, messages, REPLY, ended=False).reply_ids == reply[:-1]
    assert encode_whole(tokenizer, messages, REPLY) == ids
    assert turn_end(tokenizer).token_id == end


def test_families_differ_from_a_separately_tokenized_reply() -> None:
    """Otherwise the test above would show little."""
    differing = set()
    for name, family in families().items():
        tokenizer = family.tokenizer()
        naive = [*tokenizer(REPLY, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        if encode_reply(tokenizer, QUESTION, REPLY).reply_ids != naive:
            differing.add(name)
    assert differing == {
        "Llama 3, base eos",
        "ChatML, base eos",
        "Gemma",
        "Mistral",
        "Phi-3",
        "thinking",
        "dummy blank after a newline",
    }


def test_a_thought_is_part_of_the_reply() -> None:
    tokenizer = families()["thinking"].tokenizer()
    reply = "<think>\nI am not sure .\n</think>\n\n7 ."
    assert tokenizer.decode(encode_reply(tokenizer, QUESTION, reply).reply_ids) == f"{reply}<|im_end|>"
    assert (
        tokenizer.decode(encode_reply(tokenizer, QUESTION, "7 .").reply_ids) == "<think>\n\n</think>\n\n7 .<|im_end|>"
    )


@pytest.mark.parametrize(
    ("template", "named"),
    [
        # DeepSeek-R1: the generation prompt opens a thought that the rendered conversation does not have.
        (CHATML.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}"), "is not its beginning"),
        ("{{ messages | length }}" + CHATML, "is not its beginning"),
        ("{% for m in messages %}{{ m['content'] }}\n{% endfor %}", "does not end the assistant's turn"),
        ("{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}", "leaves out"),
        # The last blank of the prompt and the first word of the reply are one token.
        (
            "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + '<|im_end|>' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}",
            "joins the end of the prompt",
        ),
        ("{{ raise_exception('no') }}", "refuses this conversation: no"),
        ("{{ messages[0]['content'] + 1 }}", "refuses this conversation"),
    ],
)
def test_a_template_that_does_not_tell_the_reply_apart_is_refused(template: str, named: str) -> None:
    tokenizer = families()["ChatML"].tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(RefusedConversation, match=named) as refusal:
        encode_reply(tokenizer, QUESTION, "The sum")
    assert refusal.value.at("pairs.jsonl:2").where == "pairs.jsonl:2"


@pytest.mark.parametrize(
    "template",
    ["{{ strftime_now('%d %b %Y') }}", "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% endif %}"],
)
def test_a_template_that_reads_the_clock_is_refused(template: str) -> None:
    tokenizer = families()["ChatML"].tokenizer()
    tokenizer.chat_template = template + CHATML
    with pytest.raises(UserError, match="today's date") as refusal:
        encode_chat(tokenizer, QUESTION)
    assert "policy.template_date=" in refusal.value.remedy


def test_an_end_of_turn_that_is_no_token_is_found_out() -> None:
    tokenizer = byte_level(["<|endoftext|>"], eos_token="<|endoftext|>")
    tokenizer.chat_template = CHATML
    assert (turn_end(tokenizer).text, turn_end(tokenizer).token) == ("<|im_end|>\n", None)


def test_earlier_turns_of_a_thinking_template_have_no_thought() -> None:
    tokenizer = families()["thinking"].tokenizer()
    assert tokenizer.chat_template == THINKING
    assert tokenizer.decode(encode_whole(tokenizer, SEVERAL, "7 .")).count("<think>") == 1


def test_the_chat_template_counts_beside_mistrals_own_format(tmp_path: Path) -> None:
    """transformers would read tekken.json with mistral-common, which has no chat template."""
    tokenizer = families()["ChatML"].tokenizer()
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mistral", "vocab_size": len(tokenizer)}))
    (tmp_path / "tekken.json").write_text("{}")
    assert encode_chat(load_tokenizer(tmp_path), QUESTION) == encode_chat(tokenizer, QUESTION)
