"""Scores of single replies. Those that need the showcase's packages are slow tests (`make test-slow`)."""

from pathlib import Path

import pytest

from tasks.smollm2 import scores

PROMPT = "Tell me about the sea.\n\nUse the word 'simple' in your answer."


def test_counters() -> None:
    assert scores.finished(PROMPT, None, None, "yes", True) == 1
    assert scores.finished(PROMPT, None, None, "yes", False) == 0
    assert scores.words(PROMPT, None, None, "two words", True) == 2
    assert scores.repeats(PROMPT, None, None, "a b c d", True) == 0
    assert scores.repeats(PROMPT, None, None, "a b c a b c", True) == pytest.approx(1 - 3 / 4)
    assert scores.repeats(PROMPT, None, None, "", True) == 0


@pytest.mark.slow
def test_a_reply_about_the_request_is_nearer_than_another() -> None:
    near = scores.on_topic(PROMPT, None, None, "The sea is deep and full of fish.", True)
    far = scores.on_topic(PROMPT, None, None, "Cooking takes time and patience.", True)
    assert near > 0.4 > far
    assert scores.on_topic(PROMPT, None, None, " ", True) == 0


@pytest.mark.slow
def test_grammar_counts_faults() -> None:
    good = scores.grammar(PROMPT, None, None, "The sea is deep. It is full of fish, and it is very old.", True)
    bad = scores.grammar(PROMPT, None, None, "The sea are deep an blue. He go home with an fish in in it.", True)
    assert good == 0 > bad


@pytest.mark.slow
def test_the_policy_is_converted_with_its_tokenizer(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from tasks.modeling.conversation import encode_chat
    from tasks.modeling.load import check_policy_folder
    from tasks.smollm2.convert import convert

    convert(tmp_path / "policy")
    check_policy_folder(tmp_path / "policy")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    assert len(tokenizer.encode("\n\n1")) == 2
    assert len(tokenizer.encode("2024")) == 4  # digits apart
    ids = encode_chat(tokenizer, [{"role": "user", "content": "Hi"}])
    assert ids[0] == 1  # <|im_start|>
