"""Arguments of the chat template, and trusted code, from the configuration to the policies of a run."""

import json
import shutil
from pathlib import Path

import pytest

from conf.compose import compose_config
from conf.schema import RunConfig
from flows.checks import open_plan, prepare_run
from storage.errors import UserError
from storage.schemas import PROMPTS, read_parquet
from tasks.generation.prompts import TRAIN
from tasks.modeling.conversation import encode_chat
from tasks.modeling.load import load_tokenizer
from tasks.panel.annotators.registry import open_annotators
from tests.modeling.families import THINKING


@pytest.fixture
def policy(tiny_policy: Path, tmp_path: Path) -> Path:
    """A policy with a thinking template and code of its own."""
    folder = Path(shutil.copytree(tiny_policy, tmp_path / "policy"))
    (folder / "chat_template.jinja").write_text(THINKING)
    config = json.loads((folder / "config.json").read_text()) | {
        "model_type": "tiny_own",
        "architectures": ["OwnForCausalLM"],
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n\n\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'tiny_own'\n\n\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    return folder


def configured(tmp_path: Path, policy: Path, *words: str) -> RunConfig:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"What is {i}?"}) + "\n" for i in range(20)))
    return compose_config(
        [
            f"runs={tmp_path / 'runs'}", "name=one", "engine=transformers", "panel=rules", "evaluation=plain",
            "training=small", "sampling.max_tokens=8", "prompts.heldout=0.3", f"policy={policy}", f"prompts={prompts}",
            "policy.trust_remote_code=true", *words,
        ]
    )  # fmt: skip


def test_arguments_are_part_of_the_runs_policies(tmp_path: Path, policy: Path, tiny_policy: Path) -> None:
    plain = open_plan(configured(tmp_path, policy))
    assert plain.initial.path == policy
    words = ["policy.template_arguments={enable_thinking: false}", f"evaluation.against={{base: {tiny_policy}}}"]
    plan = open_plan(configured(tmp_path, policy, *words))
    assert plan.initial.path == tmp_path / "runs/one/policies/initial"
    assert plan.initial.digest != plain.initial.digest
    assert plan.named["base"].path == tiny_policy  # its template has no such argument
    question = [{"role": "user", "content": "a"}]
    tokenizer = load_tokenizer(plan.initial.path, trust_remote_code=True)
    assert str(tokenizer.decode(encode_chat(tokenizer, question))).endswith("<think>\n\n</think>\n\n")
    with pytest.raises(UserError, match="no argument 'enable_thinkin'"):
        open_plan(configured(tmp_path, policy, "policy.template_arguments={enable_thinkin: false}"))


def test_trusted_code_is_trusted_in_preflight(tmp_path: Path, policy: Path) -> None:
    plan = prepare_run(configured(tmp_path, policy))
    assert read_parquet(plan.layout.prompts / TRAIN, PROMPTS).num_rows > 5
    with pytest.raises(UserError, match="brings its own Python code"):
        prepare_run(configured(tmp_path, policy, "policy.trust_remote_code=false"))


def test_trusted_code_is_trusted_on_the_panel(tmp_path: Path, policy: Path) -> None:
    """policy.trust_remote_code holds where an annotator asks for the run's own policy."""
    words = "policy: policy, reference: initial, device: cpu"
    panel = configured(tmp_path, policy, f"+panel.annotators.it={{kind: implicit_reward, {words}}}").panel.annotators
    own = {"it": panel["it"]}
    folders = {"policy": policy, "initial": policy}
    with pytest.raises(UserError, match="brings its own Python code"):
        open_annotators(own, 0, folders)
    (annotator,) = open_annotators(own, 0, folders, trust_remote_code=True)
    assert annotator.name == "it"


def test_a_template_with_todays_date_is_refused_until_it_is_fixed(tmp_path: Path, tiny_policy: Path) -> None:
    folder = Path(shutil.copytree(tiny_policy, tmp_path / "dated"))
    template = folder / "chat_template.jinja"
    template.write_text("{{ 'Today: ' + strftime_now('%d %B %Y') + '\n' }}" + template.read_text())
    with pytest.raises(UserError, match="today's date") as refusal:
        prepare_run(configured(tmp_path, folder))
    assert "policy.template_date=2026-01-31" in refusal.value.remedy
    plan = prepare_run(configured(tmp_path, folder, "policy.template_date=2026-01-31"))
    tokenizer = load_tokenizer(plan.initial.path)
    assert str(tokenizer.decode(encode_chat(tokenizer, [{"role": "user", "content": "a"}]))).startswith(
        "Today: 31 January 2026\n<|im_start|>user"
    )
