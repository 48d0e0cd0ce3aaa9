"""What is part of a stage's key, checked over all specs of the product; and specs that are read back from spec.yaml."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
from pydantic import BaseModel, Field

from conf.compose import compose_config
from flows.round import list_stages
from storage.artifact import Artifact
from storage.errors import UserError
from storage.files import yaml_text
from storage.stage import KeyedBy, Spec, Unkeyed, load_any_spec, load_spec
from tasks.evaluation.gate import GateSpec
from tasks.run import run_stage_of
from tests.storage.count_stage import CountSettings, CountSpec
from tests.storage.spec_walk import model_changes, product_specs, unmarked_paths

ONE, OTHER = (Artifact(path=Path(name), digest=name, maker=f"round-01/{name}") for name in ("one", "other"))


class NoSettings(BaseModel):
    pass


class ReadSpec(Spec):
    stage: ClassVar[str] = "read"
    version: ClassVar[int] = 1

    settings: NoSettings = NoSettings()
    single: Artifact
    none: Artifact | None = None
    named: dict[int, Artifact] = Field({})
    listed: list[Artifact] = Field([])


def test_inputs_follow_from_the_fields() -> None:
    folder = Path("runs/a/round-02/read")
    spec = ReadSpec(folder=folder, round=2, seed=0, single=ONE, named={1: ONE, 2: OTHER}, listed=[OTHER / "a.parquet"])
    assert spec.inputs == {"single": "one", "named:1": "one", "named:2": "other", "listed:0": "other"}
    assert ReadSpec(folder=folder, round=2, seed=0, single=OTHER, none=ONE).inputs == {"single": "other", "none": "one"}


def test_makers_are_recorded_for_inputs_of_this_run_only(tmp_path: Path) -> None:
    mine, theirs, prompts = (
        Artifact(path=tmp_path / path, digest="d", maker=maker)
        for path, maker in (
            ("mine/round-01/train/policy", "round-01/train"),
            ("theirs/round-01/train/policy", "round-01/train"),
            ("mine/prompts/train.parquet", "prompts"),
        )
    )
    outside = Artifact(path=tmp_path / "mine/file", digest="d")
    spec = ReadSpec(
        folder=tmp_path / "mine/round-02/read", round=2, seed=0, single=mine, named={1: theirs, 2: prompts},
        listed=[outside],
    )  # fmt: skip
    assert spec.made_by == {"single": "round-01/train", "named:2": "prompts"}


def test_the_folder_is_not_part_of_the_key() -> None:
    specs = [ReadSpec(folder=Path(name), round=1, seed=0, single=ONE) for name in ("runs/a/x", "elsewhere/y")]
    assert specs[0].key() == specs[1].key()


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # the values are not of the fields' types
@pytest.mark.parametrize("kind", product_specs(), ids=lambda kind: kind.__name__)
def test_a_change_of_any_field_changes_the_key_unless_the_field_is_marked(kind: type[Spec]) -> None:
    checked = 0
    for where, one, other, keyed in model_changes(kind):
        assert isinstance(one, Spec)
        assert isinstance(other, Spec)
        assert (one.key() != other.key()) == keyed, f"{kind.__name__}.{where}"
        checked += 1
    assert checked > 3


def test_every_path_of_a_stage_is_an_artifact_or_says_why_not() -> None:
    specs = product_specs()
    assert {"generate", "label", "train", "evaluate", "gate"} <= {spec.stage for spec in specs}
    assert [problem for spec in specs for problem in unmarked_paths(spec)] == []


class Deep(BaseModel):
    path: Path


@dataclass
class Plain:
    path: Path | None


class Bad(ReadSpec):
    """Every way to hide a path."""

    direct: Path
    optional: Path | None = None
    listed_paths: list[Path] = Field([])
    inside: list[Annotated[Path, Unkeyed("this mark does not reach the key")]] = Field([])
    table: dict[str, dict[str, Deep]] = Field({})
    union: Annotated[int | Deep, Field(description="x")] = 0
    plain: tuple[Plain, ...] = ()
    nested: dict[str, list[Artifact]] = Field({})  # `inputs` does not see these
    wrong: Annotated[Path, KeyedBy("nothing")]
    not_read: Annotated[Path, KeyedBy("seed")]
    cache: Annotated[Path, Unkeyed("a cache")]
    file: Annotated[Path | None, KeyedBy("single")] = None


def test_hidden_paths_are_named() -> None:
    fields = ["direct", "optional", "listed_paths", "inside", "table.path", "union.path", "plain.path", "nested.path"]
    hidden = [f"Bad.{field}: a path that is not part of the key" for field in fields]
    unread = ["Bad.wrong: Bad has no artifact `nothing`", "Bad.not_read: Bad has no artifact `seed`"]
    assert unmarked_paths(Bad) == hidden + unread


@pytest.mark.parametrize(
    "words",
    [
        ["drafts=ladder", "update=momentum", "mixing=replay"],
        ["objective=xpo", "harness=leaderboard-v1", "evaluation=judge"],
    ],
    ids=" ".join,
)
def test_specs_are_read_back_as_they_were(tmp_path: Path, words: list[str]) -> None:
    for spec in list_stages(compose_config(["run=demo", *words])):
        spec.save(tmp_path / "spec.yaml")
        again = load_any_spec(tmp_path / "spec.yaml")
        assert again == spec
        assert again.key() == spec.key()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("os:path", "names no stage of this project"),
        ("storage.stage:Spec", "names no stage of this project"),
        ("tasks.nothing:Spec", "names no stage of this project"),
        ("tasks.run.inner:Spec", "names no stage of this project"),
        ("tasks.generation.settings:SamplingSettings", "names no stage of this project"),
        ("tasks.generation.settings:Spec", "names no stage of this project"),
        ("tasks.generation.settings:Nothing", "names no stage of this project"),
        ("tasks.generation.settings", "names no stage of this project"),
        ("tasks.run:main", "names no stage of this project"),
        ("", "names no stage of this project"),
        (None, "has no line `spec:"),
        (7, "has no line `spec:"),
    ],
)
def test_a_file_that_names_no_stage_of_the_project_is_refused(tmp_path: Path, line: str | None, problem: str) -> None:
    content = {"spec": line, "folder": "a", "round": 1, "seed": 0}
    (tmp_path / "spec.yaml").write_text(yaml_text(content))
    with pytest.raises(UserError, match=problem) as raised:
        load_any_spec(tmp_path / "spec.yaml")
    assert raised.value.where == str(tmp_path / "spec.yaml")
    assert raised.value.remedy


@pytest.mark.parametrize("text", ["", "[]", "{", "spec: tasks.generation.prompts:SelectSpec\nround: one\n"])
def test_a_file_that_is_no_spec_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "spec.yaml").write_text(text)
    with pytest.raises(UserError, match="this is not the spec of a stage"):
        load_any_spec(tmp_path / "spec.yaml")
    with pytest.raises(UserError, match="this is not the spec of a stage"):
        load_any_spec(tmp_path / "nothing.yaml")


def test_every_stage_names_a_function_or_is_a_decision() -> None:
    decisions = []
    for spec in product_specs():
        module, _, function = spec.runs.partition(":")
        if spec.runs:
            assert callable(getattr(import_module(module), function))
        else:
            decisions.append(spec.stage)
    assert decisions == ["gate"]


def test_a_decision_is_not_run(tmp_path: Path) -> None:
    spec = GateSpec(folder=tmp_path, round=1, seed=0, policy=ONE, evaluation=OTHER)
    with pytest.raises(UserError, match="holds a decision"):
        run_stage_of(spec)


def test_the_spec_of_another_stage_is_refused(tmp_path: Path) -> None:
    spec = CountSpec(folder=tmp_path, round=1, seed=0, settings=CountSettings(), source=ONE)
    spec.save(tmp_path / "spec.yaml")
    assert load_spec(tmp_path / "spec.yaml", CountSpec) == spec
    with pytest.raises(UserError, match="the spec of a count stage, not of a read stage"):
        load_spec(tmp_path / "spec.yaml", ReadSpec)
