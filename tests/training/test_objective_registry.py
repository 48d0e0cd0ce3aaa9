"""Objectives are found: ours by their files, users' by entry point or path; settings are read without torch."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from conf.compose import PROJECT, group_options
from storage import plugins
from storage.errors import UserError
from storage.plugins import Family
from tasks.training.objectives.base import Objective
from tasks.training.objectives.check import RunSetup, check_objective
from tasks.training.objectives.dpo import Dpo
from tasks.training.objectives.registry import OBJECTIVES, own_source
from tests.plugin_files import PluginFiles
from tests.training.objective_batches import VARIANTS

METHODS_PAGE = (PROJECT / "docs/methods.md").read_text(encoding="utf-8")

MODULE = """
from tasks.training.objectives.base import PairObjective

class {name}(PairObjective):
    name: str = "{word}"

    def batch_loss(self, batch):
        return batch.h_rejected - batch.h_chosen
"""


@pytest.mark.parametrize("name", OBJECTIVES.ours())
def test_an_objective_is_one_file_of_its_name_with_its_source(name: str) -> None:
    objective = OBJECTIVES.ours()[name]
    assert Path(inspect.getfile(objective)).stem == name.replace("-", "_")
    assert "arXiv" in (inspect.getmodule(objective).__doc__ or "")


def test_the_batches_of_the_tests_cover_every_objective() -> None:
    assert {settings.get("name", variant) for variant, settings in VARIANTS.items()} == set(OBJECTIVES.ours())


@pytest.mark.parametrize("word", sorted({*OBJECTIVES.ours(), *group_options("objective")} - {"irepo-small"}))
def test_the_methods_page_has_every_objective(word: str) -> None:
    assert f"`{word}`" in METHODS_PAGE


def test_all_settings_are_read_without_torch() -> None:
    code = (
        "import sys; from tasks.training.objectives.registry import OBJECTIVES;"
        "[(o().needs(), o().margin_scale) for o in OBJECTIVES.ours().values()]; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_new_file_is_found_and_a_name_used_twice_is_refused(package: PluginFiles) -> None:
    package.write("family/__init__.py", "")
    first = package.write("family/first.py", MODULE.format(name="First", word="mine"))
    family = Family(noun="objective", base=Objective, field="name", package="family", group="none")  # type: ignore[type-abstract]
    assert list(family.ours()) == ["mine"]
    plugins._scan.cache_clear()
    second = package.write("family/second.py", MODULE.format(name="Second", word="mine"))
    with pytest.raises(UserError, match="two objectives are called 'mine'") as refused:
        family.ours()
    assert str(first) in refused.value.where
    assert str(second) in refused.value.where


def test_an_entry_point_is_found_by_its_name(package: PluginFiles) -> None:
    module = package.write("theirs.py", MODULE.format(name="Theirs", word="theirs"))
    package.entry_point("irepo.objectives", "theirs = theirs:Theirs")
    objective = OBJECTIVES.read({"name": "theirs", "beta": 0.3})
    assert inspect.getfile(type(objective)) == str(module)
    assert objective.model_dump() == {"reference": "initial", "beta": 0.3, "nll": 0.0, "name": "theirs"}


def test_an_entry_point_called_like_one_of_ours_is_refused(package: PluginFiles) -> None:
    module = package.write("theirs.py", MODULE.format(name="Theirs", word="dpo"))
    package.entry_point("irepo.objectives", "dpo = theirs:Theirs")
    with pytest.raises(UserError, match="two objectives are called 'dpo'") as refused:
        OBJECTIVES.find("dpo")
    assert str(module) in refused.value.where
    assert inspect.getfile(Dpo) in refused.value.where


def test_an_entry_point_and_its_class_have_one_name(package: PluginFiles) -> None:
    package.write("theirs.py", MODULE.format(name="Theirs", word="theirs"))
    package.entry_point("irepo.objectives", "other = theirs:Theirs")
    with pytest.raises(UserError, match="called 'other', its objective 'theirs'"):
        OBJECTIVES.find("other")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dop", "there is no objective 'dop' .did you mean dpo?"),
        ("no.such:Thing", "'no.such' of the objective cannot be imported"),
        (":Thing", "cannot be imported"),
        ("tasks.training.objectives.dpo:Dop", "has no Dop"),
        ("tasks.training.objectives.dpo:", "has no class named after the colon"),
        ("tasks.training.objectives.dpo:dpo", "is no objective"),
        ("tasks.training.objectives.needs:Needs", "is no objective"),
        ("tasks.training.objectives.base:PairObjective", "incomplete: it does not define batch_loss"),
    ],
)
def test_a_name_without_an_objective_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        OBJECTIVES.read({"name": name})
    assert "objective.name" in refused.value.where
    assert refused.value.remedy


def test_a_class_without_a_name_is_refused(package: PluginFiles) -> None:
    package.write("nameless.py", MODULE.format(name="Nameless", word="x").replace('name: str = "x"', "pass"))
    with pytest.raises(UserError, match="Nameless has no name"):
        OBJECTIVES.find("nameless:Nameless")


def test_settings_are_read_and_written_by_name() -> None:
    with pytest.raises(ValidationError, match="is called 'dpo'"):
        Dpo(name="ipo")
    with pytest.raises(ValueError, match="name is missing; choose one of adpo"):
        OBJECTIVES.read({"beta": 0.1})
    with pytest.raises(ValidationError, match="Dpo has no such setting; did you mean beta") as wrong:
        OBJECTIVES.read({"name": "dpo", "bta": 1, "label_smoothing": 2})
    assert [error["loc"] for error in wrong.value.errors()] == [("label_smoothing",), ("bta",)]


def test_only_a_users_source_is_known_by_digest(package: PluginFiles) -> None:
    first = package.write("theirs_one.py", MODULE.format(name="Theirs", word="theirs"))
    package.write("theirs_two.py", first.read_text(encoding="utf-8") + "# another line\n")
    digests = [own_source(OBJECTIVES.find(f"{module}:Theirs")) for module in ("theirs_one", "theirs_two")]
    assert None not in digests
    assert digests[0] != digests[1]
    assert own_source(Dpo) is None


@pytest.mark.parametrize(
    ("settings", "setup", "message"),
    [
        ({"name": "sppo"}, RunSetup(scoring=[], pairs="all", offline=True), "objective=sppo reads votes"),
        ({"name": "rebel"}, RunSetup(scoring=["a"], pairs="all", offline=True), "objective=rebel reads scores"),
        ({"name": "xpo"}, RunSetup(scoring=[], pairs="all", replay=True), "mixing.replay: objective=xpo"),
        ({"name": "lcpo"}, RunSetup(scoring=[], pairs="all", goals=True), "mixing.goals: objective=lcpo"),
        ({"name": "adpo"}, RunSetup(scoring=[], pairs="all", goals=True), "mixing.goals: objective=adpo"),
        ({"name": "adpo"}, RunSetup(scoring=[], pairs="best_worst"), "set preferences.pairs=all"),
        ({"name": "rebel"}, RunSetup(scoring=[], pairs="all"), "objective.rewards=target"),
        ({"name": "rebel", "score_annotators": ["b"]}, RunSetup(scoring=["a"], pairs="all"), "b gives no scores"),
        ({"name": "ipo-md"}, RunSetup(scoring=[], pairs="all"), "objective=online-ipo"),
    ],
)  # fmt: skip
def test_needs_that_a_run_cannot_meet_are_refused(settings: dict[str, object], setup: RunSetup, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_objective(OBJECTIVES.read(settings), setup)


@pytest.mark.parametrize("name", ["irepo", "dpo", "ipo", "lcpo", "sppo"])
def test_needs_that_a_run_meets_are_not(name: str) -> None:
    check_objective(OBJECTIVES.read({"name": name}), RunSetup(scoring=[], pairs="best_worst", replay=True))
