"""User errors, provoked through the command itself: each says what is wrong, where and what to do, with code 2."""

import contextlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conf.compose import compose_config
from flows.early_checks import check_early
from flows.iterate import main
from flows.show.terminal import exit_on_user_error
from tests.waiting import limit

RULE = "run=demo", "panel=rules", "evaluation=plain"
#: words; what is wrong; where; what to do. Known from the words alone, before any import of Prefect or torch.
FROM_WORDS: list[tuple[tuple[str, ...], str, str, str]] = [
    (("run=dmo",), "there is no run=dmo", "command line", "demo, mistral-7b"),
    (("run=demo", "recipe=dic"), "there is no recipe=dic", "command line", "dice, ladder"),
    (("run=demo", "gate=judge"), "there is no gate=judge", "command line", "human, none, policy"),
    (("run=demo", "panel=nobody"), "there is no panel=nobody", "command line", "answers, demo"),
    (("run=demo", "evaluation=none"), "there is no evaluation=none", "command line", "judge, plain"),
    (("run=demo", "engine=vlm"), "there is no engine=vlm", "command line", "vllm-small"),
    (("run=demo", "objective=dop"), "there is no objective=dop", "command line", "dpo, dpo-length"),
    (("run=demo", "rounds"), "'rounds' is not an override", "command line", "key=value"),
    (("policy=x",), "no value for prompts.path", "command line", "give prompts=<file>"),
    (("prompts=x.jsonl",), "no value for policy.path", "command line", "give policy=<folder or id>"),
    (
        ("trainig.learning_rate=1",),
        "did you mean training.learning_rate, which is 5.0e-07 in conf/training/full.yaml?",
        "command line, trainig.learning_rate=1",
        "--help",
    ),
    (
        ("run=demo", "learning_rate=1e-4"),
        "did you mean training.learning_rate, which is 5.0e-07",
        "command line, learning_rate=1e-4",
        "--help",
    ),
    (("run=demo", "objective.bta=1"), "did you mean objective.beta, which is 0.1", "objective.bta=1", "--help"),
    (("run=demo", "++training.speed=3"), "there is no such key", "command line, training.speed=3", ""),
    (("run=demo", "training.epochs=["), "'['", "command line, training.epochs=[", "quote special characters"),
    (("run=demo", "~training.nothing"), "training.nothing", "command line, ~training.nothing", "~key"),
    (("run=demo", "training.learning_rate=fast"), "'fast' is not a number", "training.learning_rate=fast", ""),
    (("run=demo", "training.learning_rate=0"), "0 must be more than 0", "training.learning_rate=0", ""),
    (("run=demo", "rounds=0"), "rounds: 0 must be at least 1", "command line, rounds=0", ""),
    (("run=demo", "rounds=two"), "rounds: 'two' is not a whole number", "command line, rounds=two", ""),
    (("run=demo", "seed=-1"), "seed: -1 must be at least 0", "command line, seed=-1", ""),
    (("run=demo", "name=[a]"), "name: [a] is not a text", "command line, name=[a]", ""),
    (("run=demo", "training.dtype=int8"), "'int8' is not one of 'float32', 'bfloat16'", "training.dtype=int8", ""),
    (("run=demo", "training.schedule=wavy"), "not one of 'constant', 'linear'", "training.schedule=wavy", ""),
    (("run=demo", "sampling.top_p=2"), "2 must be at most 1", "sampling.top_p=2", ""),
    (("run=demo", "sampling.responses=many"), "'many' is not a whole number", "sampling.responses=many", ""),
    (("run=demo", "sampling.stop=x"), "'x' is not a list, such as [a, b]", "sampling.stop=x", ""),
    (("run=demo", "gate.kind=jury"), "'jury' is not one of 'none', 'human', 'policy'", "gate.kind=jury", ""),
    (("run=demo", "engine.kind=vlm"), "there is no engine 'vlm' (did you mean vllm?)", "engine.kind", "choose one of"),
    (("run=demo", "objective.beta=-1"), "-1 must be more than 0", "objective.beta=-1", ""),
    (("run=demo", "preferences.estimator=elo"), "'elo' is not one of 'bradley_terry'", "estimator=elo", ""),
    (("run=demo", "preferences.keep=some"), "not one of 'informative', nor a mapping", "preferences.keep=some", ""),
    (("run=demo", "preferences.gold=nobody"), "'nobody' is not a list", "preferences.gold=nobody", ""),
    (("run=demo", "preferences.gold=[nobody]"), "nobody is not on the panel", "", ""),
    (("run=demo", "mixing.replay=most"), "not one of 'all', nor a number", "mixing.replay=most", ""),
    (("run=demo", "mixing.offline={path: x}"), "share: a value is missing", "mixing.offline={path: x}", ""),
    (("run=demo", "training.lora={rank: 0}"), "rank: 0 must be at least 1", "training.lora={rank: 0}", ""),
    (("run=demo", "training.lora=yes"), "'yes' is not a mapping", "training.lora=yes", ""),
    (("run=demo", "training=lora", "training.lora.dropout=0.5"), "0.5 must be at most 0", "dropout=0.5", ""),
    (("run=demo", "update.kind=jump"), "'jump' is not one of 'none', 'momentum'", "update.kind=jump", ""),
    (("run=demo", "drafts.kind=x"), "'x' is not one of 'none', 'ladder', 'sapo'", "drafts.kind=x", ""),
    (("run=demo", "tracker=excel"), "'excel' is not one of 'none', 'tensorboard'", "tracker=excel", ""),
    (("run=demo", "dry_run=maybe"), "not one of 'plan', nor true or false", "dry_run=maybe", ""),
    (("run=demo", "overwrite=perhaps"), "'perhaps' is not true or false", "overwrite=perhaps", ""),
    (("run=demo", "prompts.heldout=[1]"), "[1] is not a number, nor a text", "prompts.heldout=[1]", ""),
    (("run=demo", "prompts.limit=0"), "0 must be at least 1", "prompts.limit=0", ""),
    (("run=demo", "training.launch=inline", "training.processes=2"), "need launch=process", "training.processes=2", ""),
    (("run=demo", "panel.budget.money=-1"), "-1 must be more than 0", "panel.budget.money=-1", ""),
    (("run=demo", "harness.tasks=[a,a]"), "a is listed twice", "harness.tasks=[a,a]", ""),
    (("run=demo", "evaluation.truth=nobody"), "nobody is not one of the judges", "evaluation.truth=nobody", ""),
    (("run=demo", "+evaluation.against.initial=x"), "cannot be the name of a policy", "evaluation.against", ""),
    (("run=demo", "evaluation.responses=1"), "a pair needs two responses", "evaluation.responses=1", ""),
    ((*RULE, "+panel.annotators.bad={kind: rule, require: ['(']}"), "not a regular expression", "annotators.bad", ""),
    ((*RULE, "+panel.annotators.bad={kind: juge}"), "there is no annotator 'juge' (did you mean judge?)", "", ""),
    ((*RULE, "+panel.annotators.bad={require: [a]}"), "kind is missing", "panel.annotators.bad=", ""),
    ((*RULE, "+panel.annotators.bad=3"), "panel.annotators.bad: kind is missing", "panel.annotators.bad=3", ""),
    ((*RULE, "+panel.annotators.bad={kind: rule, requir: [a]}"), "did you mean require?", "annotators.bad=", ""),
    (
        (*RULE, "+panel.annotators.bad={kind: function, function: 'no.such:thing'}"),
        "'no.such:thing' cannot be imported",
        "panel.annotators.bad.function",
        "package.module:name",
    ),
    (("run=demo", "training.device=cuda"), "no GPU that torch can use", "training.device=cuda", "training.device=cpu"),
]
PHRASES = re.compile(r"Input should|Value error|Extra inputs|validation error|pydantic|Field required|Traceback")


def refused(body: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> tuple[str, str, str]:
    """What, where and remedy that a command prints; it must exit with code 2 within 5 seconds."""
    begun = time.process_time()
    with pytest.raises(SystemExit) as ended:
        exit_on_user_error(body)
    assert time.process_time() - begun < limit(5)
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    printed = printed[printed.find("error: ") :]  # after the progress bars of loading weights
    assert not PHRASES.search(printed), printed
    found = re.fullmatch(r"error: (.+)\n  where:  (.+)\n  remedy: (.+)\n", printed, re.DOTALL)
    assert found, printed
    return found[1], found[2], found[3]


@pytest.mark.parametrize(("words", "what", "where", "remedy"), FROM_WORDS, ids=[each[0][-1] for each in FROM_WORDS])
def test_known_from_the_words_alone(
    words: tuple[str, ...], what: str, where: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if words[-1] == "training.device=cuda":
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
    said = refused(lambda: check_early(compose_config(words)), capsys)
    assert what in said[0]
    assert where in said[1]
    assert remedy in said[2]


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        ("name: [a\nrounds: 2\n", "the file is not YAML", "line 3"),
        ("name: x\n\ttab: 1\n", "the file is not YAML", "line 3"),
        ("rounds: 1\nname: x\nrounds: 2\n", "the key rounds is given twice", "line 4"),
        (
            "defaults:\n  - override /policy: demo\n  - override /prompts: demo\ntraining:\n  learning_rate: fast\n",
            "'fast' is not a number",
            "line 6",
        ),
    ],
)
def test_a_slip_in_a_file_of_the_users_is_named_with_its_line(
    text: str, what: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run" / "slip.yaml"
    file.parent.mkdir()
    file.write_text("# @package _global_\n" + text)
    said = refused(lambda: compose_config([f"hydra.searchpath=[file://{tmp_path}]", "run=slip"]), capsys)
    assert what in said[0]
    assert f"{file}, {line}" in said[1]


@pytest.fixture
def words(tiny_policy: Path, tmp_path: Path) -> list[str]:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Say {i}"}) + "\n" for i in range(40)))
    return [
        "name=small", f"runs={tmp_path / 'runs'}", f"policy={tiny_policy}", f"prompts={prompts}", "panel=rules",
        "evaluation=plain", "engine=transformers", "training=small", "sampling.max_tokens=12", "prompts.heldout=0.5",
    ]  # fmt: skip


def two_labels(tmp_path: Path) -> str:
    """A classifier of two classes: its config alone tells."""
    folder = tmp_path / "classifier"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "id2label": {"0": "a", "1": "b"}}))
    return f"+panel.annotators.reward={{kind: reward_model, path: {folder}}}"


def bad_row(tmp_path: Path) -> str:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "Say 1"}\n{"prompt": \n')
    return f"prompts={path}"


PREPARED: list[tuple[Callable[[Path], str], str, str, str]] = [
    (lambda _: "evaluation=answers", "no win rate could be measured", "evaluation.judges", "evaluation=judge"),
    (two_labels, "has 2 labels, but a reward model has one", "panel.annotators.reward", "num_labels=1"),
    (bad_row, "", "bad.jsonl", ""),
    (lambda path: f"prompts={path / 'absent.jsonl'}", "", "absent.jsonl", ""),
    (lambda path: f"policy={path}", "config.json is missing", "", ""),
    (lambda path: f"+evaluation.against.other={path}", "config.json is missing", "", ""),
    (lambda _: "sampling.max_tokens=100000", "does not fit the context of 256", "", ""),
    (lambda _: "name=../elsewhere", "not a run name", "", ""),
    (lambda path: f"mixing.offline={{path: {path / 'no.jsonl'}, share: 0.5}}", "", "no.jsonl", ""),
]


@pytest.mark.parametrize(("word", "what", "where", "remedy"), PREPARED)
def test_known_before_anything_is_sampled(
    word: Callable[[Path], str],
    what: str,
    where: str,
    remedy: str,
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = refused(lambda: main([*words, word(tmp_path)]), capsys)
    assert what in said[0]
    assert where in said[1]
    assert remedy in said[2]
    runs = tmp_path / "runs"
    assert not [path for path in runs.rglob("*") if path.name == "responses-00000.parquet"]
    with contextlib.suppress(FileNotFoundError):
        assert not list((runs / "small").glob("round-*"))


def test_there_are_sixty() -> None:
    assert len(FROM_WORDS) + len(PREPARED) + 3 >= 60
