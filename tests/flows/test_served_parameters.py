"""A run that the API starts may not name code or secrets; the command line may."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from conf.compose import compose_config
from flows.compare import Method
from flows.parameters import Override
from flows.served import KEYS, compose_served, refuse_code
from storage.errors import UserError

RUN = ["run=demo", "name=served"]
JUDGE = '+panel.annotators.j={kind: judge, model: m, base_url: "http://127.0.0.1:9/v1", api_key_env: JUDGE_KEY}'

#: Words with code or secrets. `as text`: whether the server sees it in the word itself, when a run is created.
GIVES_CODE = [
    ("training.launcher='sh -c id'", True),
    ("++training={launcher: 'sh -c id'}", False),
    ("policy.trust_remote_code=true", True),
    ("++policy={trust_remote_code: 1}", True),
    ('+panel.annotators.f={kind: function, function: "os:getcwd"}', True),
    ("+panel.annotators.f={kind: 'function', function: 'os:getcwd'}", True),
    ("++panel.annotators.answer.function='tasks:import_module'", False),
    ("+panel.annotators.f={kind: 'my.module:Class'}", True),
    ("objective=my.module:Class", True),
    ("+objective.name=my.module:Class", True),
    ("+engine.kind=my.module:Class", True),
    ("harness.include=[/tmp/tasks]", True),
    ("+harness={include: [/tmp/tasks]}", False),
    ("hydra.searchpath=[pkg://antigravity]", True),
    ("license=${oc.env:HF_TOKEN}", True),
    ("license='${oc.env:HF_TOKEN}'", True),
    (JUDGE, False),
    ("storage.endpoint_override=http://127.0.0.1:9", False),
    ("storage.mirror='gs://bucket/run?endpoint_override=127.0.0.1:9'", False),
]


def pattern(type_: Any) -> str:
    """What the server demands of a parameter of this type."""
    schema = TypeAdapter(type_).json_schema()
    found: str = schema["pattern"]
    return found


@pytest.fixture
def by_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "4b0a1c5e-0000-4000-8000-000000000000")
    monkeypatch.delenv(KEYS, raising=False)


@pytest.mark.parametrize(("word", "as_text"), GIVES_CODE)
def test_code_and_secrets_are_refused(by_the_api: None, word: str, as_text: bool) -> None:
    with pytest.raises(UserError, match=r"refused|code|command|variable"):
        compose_served([*RUN, word])
    assert bool(re.search(pattern(Override), word)) is not as_text
    TypeAdapter(Override).validate_python(word)  # the command line makes a flow run with the same parameters


@pytest.mark.parametrize("word", ["training.launcher='torchrun --nnodes=2'", "policy.trust_remote_code=true", JUDGE])
def test_the_command_line_keeps_them(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.delenv("PREFECT__FLOW_RUN_ID", raising=False)
    more = ["training.launch=process"] if "launcher" in word else []
    assert compose_served([*RUN, word, *more]) == compose_config([*RUN, word, *more])


@pytest.mark.parametrize(
    "word",
    ["rounds=3", "training.learning_rate=1e-4", "prompts.path=/data/my kind.jsonl", "~harness", "objective=dpo",
     '+panel.annotators.p={kind: rule, require: ["(?i)please"]}', "policy=org/model", "mixing=replay"],
)  # fmt: skip
def test_ordinary_words_pass(word: str) -> None:
    assert re.search(pattern(Override), word)


def test_methods_of_a_comparison_are_checked_too() -> None:
    assert re.search(pattern(Method), "irepo objective.beta=0.3")
    assert not re.search(pattern(Method), "irepo training.launcher=sh")


def test_a_key_is_allowed_by_who_serves(by_the_api: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEYS, "OTHER, JUDGE_KEY")
    assert "j" in compose_served([*RUN, JUDGE]).panel.annotators


def test_files_of_the_users_own_must_not_read_the_environment(by_the_api: None, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    preset = tmp_path / "run" / "mine.yaml"
    preset.write_text("# @package _global_\ndefaults: [/run/demo]\nlicense: mit\n")
    words = [f"hydra.searchpath=[file://{tmp_path}]", "run=mine"]
    assert compose_served(words).license == "mit"
    preset.write_text("# @package _global_\ndefaults: [/run/demo]\nlicense: ${oc.env:HOME}\n")
    with pytest.raises(UserError, match=r"mine\.yaml reads the environment"):
        compose_served(words)


def test_presets_of_ours_may_be_served(by_the_api: None) -> None:
    for preset in ("demo", "phi2", "mistral-7b"):
        compose_served([f"run={preset}"])


def test_a_users_module_is_not_imported_before_it_is_refused() -> None:
    """Importing is running: `this` prints a poem."""
    sys.modules.pop("this", None)
    with pytest.raises(UserError, match="class of the user's own"):
        compose_config([*RUN, "++objective.name='this:Zen'"], check=refuse_code)
    assert "this" not in sys.modules
