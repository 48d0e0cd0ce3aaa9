"""The journal of answers: intact lines count, damaged ones do not."""

import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from tasks.panel.annotators.protocol import Answer, AnswerType, Ranking, Score, Vote
from tasks.panel.journal import Journal, content_key
from tests.panel.scripted import comparison, response

VOTES: dict[str, Answer] = {f"key{i}": Vote("a", raw=f"line\n{i} é", tokens=i, probability=0.25) for i in range(5)}


def kept(folder: Path, kind: AnswerType = "pairs") -> dict[str, Answer]:
    with Journal(folder, "a judge", "identity", kind) as journal:
        return dict(journal.answers)


def write(folder: Path, answers: Mapping[str, Answer], kind: AnswerType = "pairs") -> Path:
    with Journal(folder, "a judge", "identity", kind) as journal:
        for key, answer in answers.items():
            journal.add(key, answer)
    return journal.path


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        ("pairs", VOTES),
        ("scores", {"k": Score("score", 1.5, faults="HTTP 500"), "l": Score("error", raw="?")}),
        ("ranking", {"k": Ranking("ranking", ((2,), (0, 1)), raw="3 > 1 = 2", cost=0.1), "l": Ranking("abstain")}),
    ],
)
def test_answers_come_back_as_they_were(tmp_path: Path, kind: AnswerType, answers: dict[str, Answer]) -> None:
    path = write(tmp_path, answers, kind)
    assert path.name.startswith("a-judge-")
    assert kept(tmp_path, kind) == answers


def test_no_altered_or_cut_file_gives_another_answer(tmp_path: Path) -> None:
    whole = write(tmp_path, VOTES).read_bytes()
    path = next(tmp_path.iterdir())
    draw = random.Random(0)
    damaged = [whole[:cut] for cut in range(0, len(whole), 7)]
    for _ in range(150):
        at = draw.randrange(len(whole))
        damaged.append(whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :])
    for data in damaged:
        path.write_bytes(data)
        intact = kept(tmp_path)
        assert intact.items() <= VOTES.items()
        assert len(intact) >= data.count(b"\n") - 2


def test_what_follows_a_cut_line_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path, VOTES)
    path.write_bytes(path.read_bytes()[:-7])
    later = Vote("b")
    write(tmp_path, {"later": later})
    assert kept(tmp_path) == {key: vote for key, vote in VOTES.items() if key != "key4"} | {"later": later}


def test_the_key_is_what_is_shown() -> None:
    assert content_key(comparison("x", "y")) == content_key(comparison("x", "y"))
    assert content_key(comparison("x", "y")) != content_key(comparison("y", "x"))
    assert content_key(comparison("x", "y")) != content_key(comparison("x", "y", prompt="q"))
    assert content_key(response("x", index=1)) == content_key(response("x", index=2))
