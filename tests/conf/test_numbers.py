"""Numbers that nothing can be computed with are refused by key, and words with other letters say how to quote them."""

import pytest

from conf.compose import compose_config
from storage.errors import UserError

WORDS = ["policy=/tmp/policy", "prompts=/tmp/prompts.jsonl", "panel=rules", "evaluation=plain"]


@pytest.mark.parametrize(
    ("word", "what"),
    [
        ("training.learning_rate=inf", "training.learning_rate is not a finite number"),
        ("sampling.temperature=1e400", "sampling.temperature is not a finite number"),
        ("+panel.annotators.j={kind: judge, model: m, extra_body: {min_p: nan}}", "min_p is not a finite number"),
        ("training.learning_rate=true", "training.learning_rate is true; it must be a number"),
        ("+panel.annotators.j={kind: judge, model: m, soft: true, temperature: true}", "temperature"),
        ("seed=4294967296", "seed: 4294967296 must be less than 4294967296"),
        ("runs=/home/josé/runs", "characters that need quotes"),
    ],
)
def test_it_is_refused_by_key(word: str, what: str) -> None:
    with pytest.raises(UserError, match=what) as refused:
        compose_config([*WORDS, word])
    assert refused.value.where.startswith("command line, ")


def test_what_is_quoted_is_read() -> None:
    assert str(compose_config([*WORDS, "runs='/home/josé/runs'"]).runs) == "/home/josé/runs"
