"""Annotator kinds: found in packages, by entry point and by dotted path; their settings are checked like ours."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from storage.errors import UserError
from tasks.panel.annotators.registry import ANNOTATORS, AnnotatorSettings
from tasks.panel.annotators.settings import AnnotatorBase
from tests.plugin_files import PluginFiles

ADAPTER: TypeAdapter[dict[str, AnnotatorBase]] = TypeAdapter(dict[str, AnnotatorSettings])
HEADER = """
from typing import Literal
from tasks.panel.annotators.settings import AnnotatorBase, Scorer
from tasks.panel.annotators.order import OrderAnnotator
"""
OWN = """
class {name}(Scorer):
    kind: str = "{kind}"
    strength: float = 1.0
    def open(self, name, *, seed):
        return OrderAnnotator(name, self)
"""


def read(**settings: object) -> AnnotatorBase:
    return ADAPTER.validate_python({"own": settings})["own"]


def test_our_kinds_are_those_of_the_docs() -> None:
    docs = Path("docs/annotators.md").read_text(encoding="utf-8")
    table = {row.split("`")[1] for row in docs.splitlines() if row.startswith("| `") and ".py`" in row}
    assert ANNOTATORS.ours().keys() == table


def test_a_dotted_path_names_a_users_class(package: PluginFiles) -> None:
    package.write("own_dotted.py", HEADER + OWN.format(name="Own", kind="polite"))
    settings = read(kind="own_dotted:Own", strength=2)
    assert settings.model_dump() == {"tie_margin": 0.0, "kind": "own_dotted:Own", "strength": 2.0}
    assert settings.reads() == ["own_dotted:Own"]
    assert settings.open("own", seed=0).name == "own"


def test_an_entry_point_names_a_users_class(package: PluginFiles) -> None:
    package.write("own_entry.py", HEADER + OWN.format(name="Own", kind="polite"))
    package.entry_point("irepo.annotators", "polite = own_entry:Own")
    settings = read(kind="polite")
    assert (type(settings).__module__, settings.reads()) == ("own_entry", ["own_entry:Own"])


@pytest.mark.parametrize(
    ("settings", "place", "message"),
    [
        ({"strenght": 2}, ("own", "strenght"), "did you mean strength?"),
        ({"strength": "high"}, ("own", "strength"), "valid number"),
    ],
)
def test_a_users_settings_are_checked_like_ours(
    package: PluginFiles, settings: dict[str, object], place: tuple[str, ...], message: str
) -> None:
    package.write("own_checked.py", HEADER + OWN.format(name="Own", kind="polite"))
    with pytest.raises(ValidationError) as caught:
        read(kind="own_checked:Own", **settings)
    (error,) = caught.value.errors()
    assert (error["loc"], message in error["msg"]) == (place, True)


@pytest.mark.parametrize(
    ("kind", "message"), [("juge", "did you mean judge?"), ("no_such_module:Own", "cannot be imported")]
)
def test_an_unknown_kind_is_refused_with_a_remedy(kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(kind=kind)
    assert (caught.value.where.startswith("annotator.kind"), bool(caught.value.remedy)) == (True, True)


@pytest.mark.parametrize(
    ("module_name", "text", "message"),
    [
        ("own_absent", "", "has no Own"),
        ("own_number", "Own = 3", "is no annotator"),
        ("own_plain", "class Own: pass", "is no annotator"),
        ("own_abstract", 'class Own(Scorer):\n    kind: str = "mine"', "does not define open"),
        ("own_unnamed", "class Own(Scorer):\n    def open(self, name, *, seed): ...", "has no name"),
    ],
)
def test_a_wrong_class_is_refused_with_a_remedy(
    package: PluginFiles, module_name: str, text: str, message: str
) -> None:
    package.write(f"{module_name}.py", HEADER + text)
    with pytest.raises(UserError, match=message) as caught:
        read(kind=f"{module_name}:Own")
    assert (module_name in caught.value.where, bool(caught.value.remedy)) == (True, True)


def test_an_entry_point_cannot_take_a_kind_of_ours(package: PluginFiles) -> None:
    file = package.write("own_judge.py", HEADER + OWN.format(name="Own", kind="judge"))
    package.entry_point("irepo.annotators", "judge = own_judge:Own")
    with pytest.raises(UserError, match="two annotators are called 'judge'") as caught:
        read(kind="judge")
    assert str(file) in caught.value.where
    assert "own_judge:Own" in caught.value.where
