"""BLEU and ROUGE-L: the values of sacrebleu 2.x (effective order) and rouge-score on the same texts."""

import pytest

from tasks.panel.annotators.text_metric import bleu, rouge_l
from tests.panel.chat_server import opened, response

PUBLISHED = [
    ("the cat sat on the mat", "the cat sat on a mat.", 0.45480190470279064, 0.8333333333333334),
    ("a", "a", 1.0, 1.0),
    ("a b", "a b", 1.0, 1.0),
    ("", "x", 0.0, 0.0),
    ("Costs $1,234.56 -- or 7-8%!", "It costs $1,234.56, or 7-8 %.", 0.4088064519392259, 0.9333333333333333),
    ("don't &amp; won't", "do not & won't", 0.39432237651162877, 0.4444444444444445),
    ("a-\nb c", "ab c", 1.0, 0.4),
    ("x y z w", "p q r s", 0.0, 0.0),
    ("the the the the the the the", "the cat is on the mat", 0.07809849842300637, 0.30769230769230765),
]


@pytest.mark.parametrize(("text", "reference", "wanted_bleu", "wanted_rouge"), PUBLISHED)
def test_values_of_the_libraries(text: str, reference: str, wanted_bleu: float, wanted_rouge: float) -> None:
    assert bleu(text, reference) == pytest.approx(wanted_bleu, abs=1e-12)
    assert rouge_l(text, reference) == pytest.approx(wanted_rouge, abs=1e-12)


def test_subsequences_longer_than_a_machine_word() -> None:
    words = [f"w{i}" for i in range(300)]
    assert rouge_l(" ".join(words[::2]), " ".join(words)) == pytest.approx(2 * 150 / 450)
    assert rouge_l(" ".join(words[::-1]), " ".join(words)) == pytest.approx(2 / 600)


@pytest.mark.parametrize("metric", ["bleu", "rouge_l"])
def test_annotator(metric: str) -> None:
    annotator = opened(None, kind="text_metric", metric=metric)
    near, far, unknown, blank = annotator.vote(
        [
            response("the cat sat on the mat", reference="the cat sat on the mat"),
            response("", reference="the cat"),
            response("the cat"),
            response("the cat", reference=" "),
        ]
    )
    assert (near.outcome, near.value) == ("score", pytest.approx(1.0))
    assert (far.outcome, far.value) == ("score", 0.0)
    assert unknown.outcome == blank.outcome == "abstain"
