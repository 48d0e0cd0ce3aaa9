"""The form behind *Run* and the one at a gate: every field is explained, and nothing is chosen beforehand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import is_valid_schema, validate

from conf.compose import compose_config, group_options
from flows import run_names
from flows.gate import GateForm
from flows.iterate import irepo
from flows.run_names import WAITS, name_this_run
from flows.train import irepo_train
from tasks.report import run_name, sentence

FORM = parameter_schema(irepo.fn).model_dump_for_openapi()
GROUPS = ("panel", "evaluation", "objective", "recipe", "training", "engine", "gate")


def text_of(field: dict[str, Any]) -> dict[str, Any]:
    """The part of an optional field's schema that is a text."""
    return next((each for each in field.get("anyOf", []) if each.get("type") == "string"), field)


@pytest.mark.parametrize("flow", [irepo, irepo_train])
def test_every_field_is_explained(flow: Any) -> None:
    schema = parameter_schema(flow.fn).model_dump_for_openapi()
    is_valid_schema(schema)
    assert [name for name, field in schema["properties"].items() if len(field.get("description", "")) < 10] == []


@pytest.mark.parametrize("group", GROUPS)
def test_choices_are_those_of_the_configuration_with_what_each_is(group: str) -> None:
    field = text_of(FORM["properties"][group])
    assert field["enum"] == group_options(group)
    assert all(option in field["description"] for option in field["enum"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"panel": "nobody"}, {"evaluation": "feeling"}, {"objective": "my.module:Class"}, {"engine": "vlm"},
        {"policy": ""}, {"policy": "${oc.env:HF_TOKEN}"}, {"prompts": "pkg://x"}, {"training": "huge"}, {"rounds": 0},
    ],
)  # fmt: skip
def test_what_can_be_known_is_refused_when_a_run_is_created(wrong: dict[str, Any]) -> None:
    assert validate(wrong, FORM, raise_on_error=False)


def test_the_fields_are_words_of_the_command_line(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Say 1"}\n')
    right = {"name": "mine", "policy": "org/model", "prompts": str(prompts), "panel": "rules", "rounds": 2}
    assert not validate(right, FORM, raise_on_error=False)
    config = compose_config([f"{key}={value}" for key, value in right.items()] + ["evaluation=plain"])
    assert (config.policy.path, config.rounds) == ("org/model", 2)


def test_at_the_gate_nothing_is_chosen_and_every_action_is_explained() -> None:
    schema = GateForm.with_initial_data(description="?").model_json_schema()
    assert schema["required"] == ["action"]
    action = schema["properties"]["action"]
    assert "default" not in action
    assert all(f"{name}:" in action["description"] for name in ("promote", "roll back", "stop"))


class Client:
    """In the place of Prefect's client: one flow run with the tags of its deployment."""

    def __init__(self, tags: list[str]) -> None:
        self.run = SimpleNamespace(name="blue-owl", tags=tags)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read_flow_run(self, _: object) -> SimpleNamespace:
        return self.run

    def update_flow_run(self, _: object, *, name: str, tags: list[str]) -> None:
        self.run = SimpleNamespace(name=name, tags=tags)


def test_a_flow_run_is_named_after_its_run_and_says_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(["irepo"])
    monkeypatch.setattr(run_names, "get_client", lambda sync_client: client)
    flow_run = SimpleNamespace(id="1", parent_flow_run_id=None)
    monkeypatch.setattr(run_names, "runtime", SimpleNamespace(flow_run=flow_run))
    name_this_run("mine", ["demo", "irepo", ""])
    assert (client.run.name, client.run.tags) == ("mine", ["demo", "irepo"])
    name_this_run("mine: waits for a decision on round 1", [WAITS])
    assert client.run.tags == ["demo", "irepo", WAITS]
    name_this_run("mine", [])
    assert (client.run.name, client.run.tags) == ("mine", ["demo", "irepo"])
    flow_run.parent_flow_run_id = "0"
    name_this_run("other", [])
    assert client.run.name == "mine", "a run of a comparison keeps the name that it was given"


def test_a_finished_stage_is_a_sentence_in_the_log() -> None:
    spec: Any = SimpleNamespace(folder=Path("/runs/mine/round-02/label"))
    manifest: Any = SimpleNamespace(round=2, seconds=12.34, rows={"votes": 1536, "preferences": 180})
    assert sentence(spec, manifest) == (
        "Round 2, label: finished after 12.3 s with 1,536 votes and 180 preferences, in /runs/mine/round-02/label."
    )
    assert run_name(spec) == "mine"
    spec.folder = Path("/runs/mine/round-00/evaluate/responses")
    assert run_name(spec) == "mine"
