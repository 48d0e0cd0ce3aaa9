"""A chat template that leaves a turn out is refused: the policy would be asked something else."""

from functools import cache

import pytest
from transformers import PreTrainedTokenizerBase

from storage.errors import UserError
from tasks.generation.prompt_fit import fits_context
from tasks.modeling.conversation import encode_chat, encode_reply
from tests.modeling.families import families

#: The first template of Phi-3-mini: it knows no system message.
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|user|>\n' + m['content'] + '<|end|>\n' }}"
    "{% elif m['role'] == 'assistant' %}{{ '<|assistant|>\n' + m['content'] + '<|end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
#: A system message at the start only, and of several users' turns the last.
LAST_ONLY = (
    "{% if messages[0]['role'] == 'system' %}{{ '<|system|>\n' + messages[0]['content'] + '<|end|>\n' }}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|assistant|>\n' + m['content'] + '<|end|>\n' }}"
    "{% elif m['role'] == 'user' and (loop.last or loop.nextitem.role == 'assistant') %}"
    "{{ '<|user|>\n' + m['content'] + '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


ASK, MORE, REPLY = turn("user", "What is the sum ?"), turn("user", "The reader may know ."), turn("assistant", "7 .")
SYSTEM = turn("system", "Be brief .")


@cache
def phi(template: str) -> PreTrainedTokenizerBase:
    tokenizer = families()["Phi-3"].build()
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "messages", "lost"),
    [
        (NO_SYSTEM, [SYSTEM, ASK], r"message 1 .*\(system\)"),
        (NO_SYSTEM, [ASK, REPLY, SYSTEM, MORE], r"message 3 .*\(system\)"),
        (LAST_ONLY, [ASK, MORE], r"message 1 .*\(user\)"),
        (LAST_ONLY, [SYSTEM, ASK, REPLY, SYSTEM | {"content": "In French ."}, ASK], r"message 4 .*\(system\)"),
    ],
)
def test_a_turn_that_is_left_out_is_refused(template: str, messages: list[dict[str, str]], lost: str) -> None:
    for encode in (lambda: encode_chat(phi(template), messages), lambda: encode_reply(phi(template), messages, "7 .")):
        with pytest.raises(UserError, match=f"leaves out {lost}"):
            encode()
    row = {"messages": messages, "source": "p.jsonl:3"}
    with pytest.raises(UserError, match="leaves out") as refused:
        fits_context([row], phi(template), context=512, max_tokens=8, drop=False)
    assert refused.value.where == "p.jsonl:3"
    assert fits_context([row], phi(template), context=512, max_tokens=8, drop=False, drop_refused=True) == [
        "refused_by_template"
    ]


@pytest.mark.parametrize("template", [NO_SYSTEM, LAST_ONLY])
def test_what_the_template_writes_is_taken(template: str) -> None:
    assert encode_chat(phi(template), [ASK, REPLY, MORE])
    assert encode_chat(phi(template), [turn("user", "  What is the sum ?\n")])


@pytest.mark.parametrize("name", families())
def test_no_family_loses_a_turn(name: str) -> None:
    """Also where it strips white space, moves a system message or shortens earlier replies."""
    tokenizer = families()[name].tokenizer()
    long = turn("assistant", "<think>\nI am not sure .\n</think>\n\n7 .")
    assert encode_chat(tokenizer, [turn("user", "\n  What is\n\n the sum ? "), long, MORE])
