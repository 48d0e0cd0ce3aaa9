"""The panel's tables, as the report of a round shows them."""

from flows.show.panel_tables import complaints, panel_tables
from tests.reporting.records import annotator, label_summary


def test_every_figure_has_its_place() -> None:
    judge = annotator(
        "judge", a=3, error=2, unanswered=1, faults='{"HTTP 500": 4}', seconds=1.25, tokens=1234, cost=0.5,
        first_share=0.75, order_consistency=1.0, intransitive=1, triples=9,
    )  # fmt: skip
    labels = label_summary(
        [judge, annotator("rule", b=7)],
        agreement=[{"annotator": "judge", "other": "rule", "both": 5, "same": 0.8, "kappa": 0.5}],
        learnt={
            "annotators": {"judge": {"eta": 0.9, "used": 1.0, "votes": 3, "shared": 3},
                           "rule": {"eta": None, "used": 1.0, "votes": 7, "shared": 0}},
            "not_identified": {"rule": "0 shared votes, fewer than 500: its votes count in full"},
            "length_penalties": {"itself": 0.037},
            "temperatures": {"reward": {"temperature": 1.354, "votes": 6362},
                             "fixed": {"temperature": 2.0},
                             "lonely": {"temperature": 1.0, "votes": 12, "not_identified": "12 votes of others"}},
            "prior_variance": 4.0,
        },
    )  # fmt: skip
    text = "\n".join(panel_tables(labels))
    assert "- itself: 0.037 less for each character" in text
    assert "| reward | 1.35 | 6362 |  |" in text
    assert "| fixed | 2 |  |  |" in text
    assert "| lonely | 1 | 12 | 12 votes of others |" in text
    assert "Prior variance of strengths, chosen from the votes: 4" in text
    assert "| judge | 3 | 0 | 0 | 0 | 2 |" in text
    assert (
        "| annotator | agrees with the panel | with the others | prefers the first shown | same in both orders |"
        in text
    )
    assert "| judge | 50% | 50% | 75% | 100% | 1 of 9 |" in text
    assert "| rule | 50% | 50% | - | - | 0 of 0 |" in text
    assert "| judge | 1.2 | 1,234 | 0.5000 | 4 HTTP 500 | 1 |" in text
    assert "| judge |  | 80% |" in text
    assert "| rule | not known | 1.00 | 0 |" in text
    assert "- rule: 0 shared votes, fewer than 500: its votes count in full" in text
    assert complaints(labels) == ["judge: 2 of 5 votes are errors, 1 questions unanswered; see `raw` in"]
    assert "| rule | 1.2" not in text  # what is local costs nothing
