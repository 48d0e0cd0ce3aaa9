"""The command: two real rounds on vLLM and Prefect, kept when asked for again; and what it refuses before any model."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from prefect.settings import PREFECT_RESULTS_LOCAL_STORAGE_PATH, temporary_settings
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from conf.compose import PROJECT
from flows.iterate import main
from flows.show.terminal import exit_on_user_error
from storage.errors import UserError
from storage.manifest import read_manifest
from tests.waiting import limit


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Say {i}", "answer": str(i)}) + "\n" for i in range(40)))
    return path


def words(tiny_policy: Path, prompts: Path, runs: Path, *more: str) -> list[str]:
    return [
        "name=small", f"runs={runs}", f"policy={tiny_policy}", f"prompts={prompts}", "panel=rules", "evaluation=plain",
        "engine=vllm-small", "training=small", "training.epochs=1", "sampling.max_tokens=12", "prompts.per_round=16",
        "prompts.heldout=0.2", "preferences.drop_truncated=false", *more,
    ]  # fmt: skip


def command(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return command_of("flows.iterate", arguments)


def command_of(module: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=limit(400),
        env={name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"},
    )


@pytest.mark.vllm
def test_two_rounds_then_nothing_left_to_do(tiny_policy: Path, prompts: Path, tmp_path: Path) -> None:
    arguments = words(tiny_policy, prompts, tmp_path / "runs", "rounds=2")
    done = command(arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "runs" / "small"
    for number in (1, 2):
        for stage in ("prompts", "generate", "label", "train", "evaluate"):
            read_manifest(run / f"round-{number:02d}" / stage)
    assert "round 2" in done.stdout
    assert f"run folder: {run}".replace(" ", "") in done.stdout.replace("\n", "").replace(" ", "")
    policy = run / "round-02" / "train" / "policy"
    AutoModelForCausalLM.from_pretrained(policy)
    weights = (policy / "model.safetensors").read_bytes()

    manifests = {path: path.stat().st_mtime_ns for path in run.rglob("manifest.json")}
    lost = run / "round-02" / "evaluate" / "manifest.json"
    lost.unlink()
    again = command(arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (policy / "model.safetensors").read_bytes() == weights
    assert [path for path, changed in manifests.items() if path.stat().st_mtime_ns != changed] == [lost]


def test_a_mistake_ends_with_code_2_on_one_screen(
    tiny_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a process of its own: tests/flows/test_run_log.py."""
    with pytest.raises(SystemExit) as ended:
        exit_on_user_error(lambda: main(words(tiny_policy, tmp_path / "absent.jsonl", tmp_path / "runs")))
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert "absent.jsonl" in shown
    assert "remedy" in shown
    assert len(shown.splitlines()) < 10
    assert not (tmp_path / "runs" / "small" / "config.yaml").exists()


def copy_without(folder: Path, target: Path, *names: str) -> Path:
    shutil.copytree(folder, target)
    for name in names:
        (target / name).unlink()
    return target


def test_policies_that_cannot_be_one_are_refused(tiny_policy: Path, prompts: Path, tmp_path: Path) -> None:
    cases = {
        "no tokenizer": copy_without(tiny_policy, tmp_path / "a", "tokenizer_config.json"),
        "no chat template": copy_without(tiny_policy, tmp_path / "b", "chat_template.jinja"),
        "not safetensors": copy_without(tiny_policy, tmp_path / "c", "model.safetensors"),
        "own Python code": copy_without(tiny_policy, tmp_path / "d"),
        "config.json is missing": tmp_path,
    }
    config = json.loads((cases["own Python code"] / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling.Model"}
    (cases["own Python code"] / "config.json").write_text(json.dumps(config))
    for what, folder in cases.items():
        with pytest.raises(UserError, match=what) as caught:
            main(words(folder, prompts, tmp_path / "runs"))
        assert str(folder) in caught.value.where


@pytest.mark.parametrize(
    ("word", "what"),
    [
        ("name=../elsewhere", "not a run name"),
        ("name=a/b", "not a run name"),
        ("sampling.max_tokens=100000", "does not fit the context of 256"),
        ("engine.kv_cache_gib=100000", "KV cache 100000.0(.|\n)*use engine.kv_cache_gib=1 or"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    tiny_policy: Path, prompts: Path, tmp_path: Path, word: str, what: str
) -> None:
    with pytest.raises(UserError, match=what):
        main(words(tiny_policy, prompts, tmp_path / "runs", word))


def test_a_second_run_on_a_folder_is_refused_by_the_owners_name(
    tiny_policy: Path, prompts: Path, tmp_path: Path
) -> None:
    hold = "import time\nfrom pathlib import Path\nfrom storage.owner import owned\n"
    hold += (
        f"with owned(Path({str(tmp_path / 'runs' / 'small')!r})):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", hold], cwd=PROJECT, stdout=subprocess.PIPE)
    try:
        assert owner.stdout is not None
        owner.stdout.readline()
        with pytest.raises(UserError, match=f"another run uses this folder: process {owner.pid} on"):
            main(words(tiny_policy, prompts, tmp_path / "runs"))
        assert not (tmp_path / "runs" / "small" / "prompts").exists()
    finally:
        owner.kill()
        owner.communicate()


def test_an_unwritable_result_store_is_refused(tiny_policy: Path, prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = temporary_settings({PREFECT_RESULTS_LOCAL_STORAGE_PATH: tmp_path / "file" / "store"})
    with store, pytest.raises(UserError, match="result store cannot be written: Not a directory") as caught:
        main(words(tiny_policy, prompts, tmp_path / "runs"))
    assert "PREFECT_RESULTS_LOCAL_STORAGE_PATH" in caught.value.where


def test_a_judge_without_its_key_is_refused(
    tiny_policy: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_block(name: str) -> None:  # as Prefect's server answers
        raise ValueError(f"Unable to find block document named {name}")

    monkeypatch.setattr("flows.checks.Secret", SimpleNamespace(load=no_block))
    key = "+panel.annotators.judge={kind: judge, model: m, api_key_env: IREPO_TEST_ABSENT_KEY}"
    with pytest.raises(UserError, match="Secret block 'irepo-test-absent-key'"):
        main(words(tiny_policy, prompts, tmp_path / "runs", key))


def test_a_dry_run_prints_every_stage_and_makes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["run=mistral-7b", "training=lora", f"runs={tmp_path / 'runs'}", "dry_run=plan"])
    shown = capsys.readouterr().out
    for stage in ("select", "generate", "label", "train", "judge", "evaluate"):
        assert f"{stage} " in shown
    assert "mistralai/Mistral-7B-Instruct-v0.3" in shown
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_momentum_is_where_the_next_round_starts(tiny_policy: Path, prompts: Path, tmp_path: Path) -> None:
    arguments = words(tiny_policy, prompts, tmp_path / "runs", "rounds=2", "engine=transformers", "update=momentum")
    done = command([*arguments, "training.learning_rate=1e-3"])
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "runs" / "small"
    first, second = (load_file(run / f"round-0{n}/train/policy/model.safetensors") for n in (1, 2))
    start, ended = load_file(tiny_policy / "model.safetensors"), load_file(run / "policy" / "model.safetensors")
    once = load_file(run / "round-01/update/policy/model.safetensors")
    moved = 0.0
    for name in first:
        torch.testing.assert_close(once[name], 1.3 * first[name] - 0.3 * start[name])
        torch.testing.assert_close(ended[name], 1.3 * second[name] - 0.3 * first[name])
        moved = max(moved, float((first[name] - start[name]).abs().max()))
    assert moved > 1e-4
    generate = yaml.safe_load((run / "round-02/generate/spec.yaml").read_text())
    assert Path(generate["policy"]["path"]) == run / "round-01/update/policy"
    assert read_manifest(run / "round-02/generate").inputs["policy"] == read_manifest(run / "round-01/update").content
    assert "seconds: update" in done.stdout


@pytest.mark.slow
def test_replay_trains_on_earlier_rounds_with_their_own_votes(tiny_policy: Path, prompts: Path, tmp_path: Path) -> None:
    more = ["rounds=2", "engine=transformers", "mixing=replay", "objective=sppo", "objective.reference=initial"]
    done = command(words(tiny_policy, prompts, tmp_path / "runs", *more))
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "runs" / "small"
    pairs = [read_manifest(run / f"round-0{n}/label").rows["preferences"] for n in (1, 2)]
    mixed = read_manifest(run / "round-02/mix")
    assert mixed.summary["pairs_by_round"] == {"2": pairs[1], "1": pairs[0]}
    train = read_manifest(run / "round-02/train")
    assert train.inputs["preferences"] == mixed.content
    labels = {f"votes:{n}": read_manifest(run / f"round-0{n}/label").content for n in (1, 2)}
    assert labels.items() <= train.inputs.items()
    assert train.rows["pairs"] == sum(pairs)
