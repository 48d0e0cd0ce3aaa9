"""Policies by name, the chat, the list of runs, archives and exports, on run folders made by hand."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from flows import chat, export, runs
from flows.result import find_result, named_policy
from flows.run_list import run_lines
from storage.errors import UserError
from storage.owner import owned
from tasks.generation.settings import SamplingSettings
from tasks.generation.talk import Talker
from tests.reporting.records import round_record


@pytest.fixture
def run(tmp_path: Path, tiny_policy: Path, tiny_policy_untied: Path) -> Path:
    """A finished run of two rounds; round 1's policy is promoted."""
    root = tmp_path / "runs" / "mine"
    sampling = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 8}
    config = {"name": "mine", "rounds": 2, "policy": {"path": str(tiny_policy)}, "sampling": sampling}
    for number in (1, 2):
        shutil.copytree(tiny_policy_untied, root / f"round-0{number}" / "train" / "policy")
        for stage in ("train", "evaluate"):
            folder = root / f"round-0{number}" / stage
            folder.mkdir(exist_ok=True)
            (folder / "manifest.json").write_text("{}")
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    (root / "policy").symlink_to("round-01/train/policy")
    won = {"initial": {"brief": {"mean": 0.625, "low": 0.5, "high": 0.7, "n": 9}}}
    records = [round_record(1, decision="promote"), round_record(2, decision="roll back", win_rate=won)]
    (root / "rounds.json").write_text(json.dumps([record.model_dump(mode="json") for record in records]))
    return root


def out(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_policies_have_the_names_that_people_use(run: Path, tiny_policy: Path) -> None:
    assert (find_result(run).name, find_result(run).folder) == ("mine, round 1", run / "round-01/train/policy")
    assert find_result(run / "round-02").folder == run / "round-02/train/policy"
    assert find_result(tiny_policy).run is None
    assert named_policy("initial", run).folder == tiny_policy
    assert named_policy("round-02", run).round == 2
    with pytest.raises(UserError, match=r"did you mean .*/mine\?"):
        find_result(run.parent / "mne")
    with pytest.raises(UserError, match="round 7 has no finished policy"):
        named_policy("round-07", run)
    (run / "policy").unlink()
    with pytest.raises(UserError, match="no round of the run is promoted yet") as caught:
        find_result(run)
    assert str(run / "round-02") in caught.value.remedy


def test_a_reply_is_streamed_and_repeats(tiny_policy: Path) -> None:
    talker = Talker(tiny_policy)
    asked = [{"role": "user", "content": "Say 3"}]
    sampling = SamplingSettings(max_tokens=12)
    one, again, other = (list(talker.reply(asked, sampling, seed)) for seed in (0, 0, 1))
    assert len(one) > 1
    assert "".join(one) == "".join(again) != "".join(other)
    greedy = SamplingSettings(max_tokens=12, temperature=0)
    assert list(talker.reply(asked, greedy, 0)) == list(talker.reply(asked, greedy, 5))
    with pytest.raises(UserError, match="the policy's context 256"):
        list(talker.reply([{"role": "user", "content": "word " * 400}], sampling, 0))


def test_two_policies_answer_and_votes_are_kept(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(["Say 3", "x", "b", "And now?", "", "/help", "/new", "Say 4", "=", "/quit"])
    monkeypatch.setattr("builtins.input", lambda *_: next(lines))
    chat.main([str(run), "--against", "initial"])
    printed = out(capsys)
    assert "a: mine, round 1" in printed
    assert "b: initial" in printed
    assert "write a, b or =" in printed
    assert "commands: /new, /quit" in printed
    rows = [json.loads(line) for line in (run / "chat.jsonl").read_text().splitlines()]
    assert [(len(row["prompt"]), row["p_hat"]) for row in rows] == [(1, 0.9), (1, 0.5)]
    assert rows[0]["rejected_policy"] == str(run / "round-01/train/policy")
    from tasks.mixing.data import DataSettings
    from tasks.mixing.shapes.read import pairs_of

    found = list(pairs_of([(str(i), row) for i, row in enumerate(rows)], DataSettings(path="x").reading()))
    assert [pair.p_hat for pair in found] == [0.9, 0.5]


def test_one_prompt_is_answered(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat.main([str(run), "--prompt", "Say 3", "--temperature", "0"])
    assert "mine, round 1" in out(capsys)
    with pytest.raises(UserError, match="no run folder to keep votes in"):
        chat.main([str(run / "round-01/train/policy"), "--against", str(run)])


def test_runs_are_listed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs.main(["--runs", str(run.parent)])
    assert "mine finished 2/2 0.62 (brief) -" in out(capsys)
    config = yaml.safe_load((run / "config.yaml").read_text()) | {"rounds": 3}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    runs.main(["--runs", str(run.parent)])
    assert "mine stopped 2/3" in out(capsys)
    (run / "rounds.json").write_text("[{]")
    (line,) = run_lines(run.parent)
    assert (line.state, line.win_rate) == ("rounds.json cannot be read", "?")


def test_a_run_is_archived_and_removed_only_when_confirmed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--runs", str(run.parent)]
    with pytest.raises(UserError, match="nobody confirmed it") as caught:
        runs.main([*words, "rm", "mine"])
    assert "--yes" in caught.value.remedy
    with pytest.raises(UserError, match=r"did you mean mine\?"):
        runs.main([*words, "rm", "mines", "--yes"])
    with pytest.raises(UserError, match="is not a run name"):
        runs.main([*words, "rm", "..", "--yes"])
    weights = (run / "round-02/train/policy/model.safetensors").read_bytes()
    runs.main([*words, "archive", "mine", "--yes"])
    assert not run.exists()
    with tarfile.open(run.parent / "archive/mine.tar.gz") as packed:
        packed.extractall(run.parent, filter="data")
    assert (run / "round-02/train/policy/model.safetensors").read_bytes() == weights
    assert (run / "policy").is_symlink()
    with pytest.raises(UserError, match="there is an archive of this name"):
        runs.main([*words, "archive", "mine", "--yes"])
    runs.main([*words, "rm", "mine", "--yes"])
    assert not run.exists()
    capsys.readouterr()


def test_a_run_in_progress_is_shown_and_kept(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with owned(run):
        monkeypatch.setattr("storage.owner._held", set())  # as another process sees it
        runs.main(["--runs", str(run.parent)])
        assert "mine running" in out(capsys)
        with pytest.raises(UserError, match="another run uses this folder"):
            runs.main(["--runs", str(run.parent), "rm", "mine", "--yes"])
    assert (run / "config.yaml").is_file()


def test_exports(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export.main([str(run), str(tmp_path / "half"), "--dtype", "float16"])
    assert "mine, round 1" in out(capsys)
    assert {str(tensor.dtype) for tensor in load_file(tmp_path / "half/model.safetensors").values()} == {
        "torch.float16"
    }
    with pytest.raises(UserError, match="not trained with training=lora"):
        export.main([str(run), str(tmp_path / "adapter"), "--adapter"])
    with pytest.raises(UserError, match="as it was trained"):
        export.main([str(run), str(tmp_path / "adapter"), "--adapter", "--dtype", "float16"])
    adapter = run / "round-01/train/adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    export.main([str(run), str(tmp_path / "adapter"), "--adapter"])
    assert (tmp_path / "adapter/adapter_config.json").is_file()
    with pytest.raises(UserError, match="exists already"):
        export.main([str(run), str(tmp_path / "half")])


@pytest.mark.parametrize("module", [chat, export, runs])
def test_help_says_how_to_use_it(module: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])  # type: ignore[attr-defined]  # each has it
    assert ended.value.code == 0
    assert "python -m flows." in capsys.readouterr().out
