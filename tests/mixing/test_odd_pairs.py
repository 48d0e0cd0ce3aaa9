"""Rows of preference sets that lose something silently elsewhere: refused by row here."""

from typing import Any

import pytest

from storage.errors import UserError
from tasks.mixing.shapes.pair import OfflinePair, Reading
from tasks.mixing.shapes.read import pairs_of

PAIR = {"prompt": "Ask?", "chosen": "yes", "rejected": "no"}
READING = Reading("data", p_hat=0.9, score_fields=("score_chosen", "score_rejected"), response_score="helpfulness")
ONE = {"prompt": "Ask?", "response": "yes", "helpfulness": 2}


def read(*rows: dict[str, Any]) -> list[OfflinePair]:
    return list(pairs_of([(f"set.jsonl:{number}", row) for number, row in enumerate(rows, 1)], READING))


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (PAIR | {"input": "A text."}, "input beside prompt"),
        (PAIR | {"context": "A text."}, "context beside prompt"),
        (PAIR | {"score_chosen": 5}, "only one of the scores score_chosen and score_rejected"),
        (PAIR | {"score_chosen": 10**400, "score_rejected": 1}, "score_chosen is a number, not a finite number"),
        ({"chosen": [{"role": "tool", "content": "x"}], "rejected": "no", "prompt": "Ask?"}, "role 'tool'"),
        ({**PAIR, "prompt": "[{'role': 'user', 'content': 'Ask?'}]"}, "a conversation"),
    ],
)
def test_a_row_that_loses_something_is_refused(row: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what) as refused:
        read(PAIR, row)
    assert refused.value.where == "set.jsonl:2"


def test_empty_fields_beside_the_prompt_are_nothing() -> None:
    assert len(read(PAIR | {"input": "", "context": None, "score_chosen": None, "score_rejected": None})) == 1


def test_rows_of_a_prompt_that_are_apart_are_said(caplog: pytest.LogCaptureFixture) -> None:
    other, worse = ONE | {"prompt": "Other?"}, ONE | {"response": "no", "helpfulness": 1}
    assert read(ONE, other, worse) == []
    assert "1 times a prompt comes again after rows of other prompts, first at set.jsonl:3" in caplog.text
    caplog.clear()
    assert len(read(ONE, worse, other)) == 1
    assert caplog.text == ""
