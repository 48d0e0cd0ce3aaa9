"""`--help` of every command: usage and keys, code 0, and nothing is started; what is known of a key is its meaning."""

from pathlib import Path

import pytest

from conf.compose import known_keys
from conf.describe import groups, keys
from flows import help as flows_help
from flows.operations import temporary_server
from tests.commands import run_module

RUN = ("flows.iterate", "flows.compare", "flows.train")
OTHERS = (
    "flows.serve", "flows.deploy", "flows.vote", "flows.gate", "flows.warmup", "flows.judge_accuracy",
    "storage.explain", "storage.diff", "tasks.run", "tasks.reporting.report", "tasks.reporting.cards",
    "tasks.panel.humans", "tasks.training.reward_model",
)  # fmt: skip


def helped(module: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """What `python -m module --help` prints, in this process; the code must be 0 and no server may start."""

    def refuse() -> None:
        raise AssertionError("a server starts")

    monkeypatch.setattr(temporary_server, "start_temporary_server", refuse)
    ended = run_module(module, "--help", *words)
    assert ended.code == 0
    return ended.out


@pytest.mark.parametrize("module", [*RUN, *OTHERS])
def test_every_command_has_help(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = helped(module, monkeypatch)
    assert text.startswith("usage: ")
    assert len(text.splitlines()) > 3
    if module in RUN:
        assert "training.learning_rate=5.0e-07" in text
        assert "gate=human" in text


def test_help_may_be_of_one_group_with_another_option(monkeypatch: pytest.MonkeyPatch) -> None:
    text = helped("flows.iterate", monkeypatch, "objective=dpo", "objective")
    assert "objective.label_smoothing=0.0" in text
    assert "training." not in text.partition("groups:")[2]


def test_help_of_an_unknown_group_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        flows_help.exit_on_help(["--help", "trainig"], flows_help.run_help("flows.iterate", "About."))
    assert ended.value.code == 2
    assert "there is no group 'trainig'" in capsys.readouterr().err


def test_every_key_of_every_option_has_a_meaning_and_no_key_is_missing() -> None:
    described: set[str] = set()
    for group in groups():
        for option in group.options:
            shown = keys([f"{group.name}={option}"])
            assert [key.name for key in shown if not key.meaning] == []
            described |= {key.name for key in shown}
    lists = ("policy", "prompts", "sampling", "training", "evaluation", "preferences", "engine")
    assert {key for key in known_keys() if key.startswith(tuple(f"{name}." for name in lists))} <= described | {
        key for key in known_keys() if key.startswith(("training.lora.", "preferences.keep."))
    }


def test_defaults_come_from_the_file_that_sets_them() -> None:
    by_name = {key.name: key for key in keys(["training=lora"])}
    rate = by_name["training.learning_rate"]
    assert (rate.default, rate.file) == ("5.0e-06", "conf/training/lora.yaml")
    assert by_name["training.epochs"].file == "conf/training/full.yaml"
    assert rate.meaning.startswith("at its peak")
    assert Path(rate.file).is_file()
