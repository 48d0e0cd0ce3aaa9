"""Code that a model's folder brings does not run unless a setting says so, and nobody is asked on the terminal."""

import ast
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.errors import UserError
from tasks.labeling.settings import LabelSettings
from tasks.modeling.load import check_policy_folder, load_policy, load_tokenizer
from tasks.modeling.policy_folder import open_meta
from tasks.modeling.pretrained import read_config, read_model
from tasks.modeling.vllm_process import VllmOptions
from tasks.panel.annotators.registry import open_annotators
from tasks.training.embedding import embed, find_embedder
from tasks.training.reward_model import RewardTrainingSettings, fit_reward_model

ROOT = Path(__file__).resolve().parents[2]
LOADER = "tasks/modeling/pretrained.py"
#: A script without irepo, which it is measured against. It must say trust_remote_code=False itself.
PLAIN = "benchmarks/round/plain.py"
#: Calls that can run code that they find in what they load.
LOADS = {
    "from_pretrained", "load_dataset", "SentenceTransformer", "CrossEncoder", "pipeline",
    "get_class_from_dynamic_module", "get_kernel", "Unpickler",
}  # fmt: skip
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal"}
MARKER = "from pathlib import Path\nPath({marker!r}).write_text('ran')\n"


def sources() -> Iterator[tuple[str, ast.Module]]:
    for top in ("flows", "tasks", "storage", "conf", "benchmarks", "examples"):
        for path in sorted((ROOT / top).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def never_trusts(node: ast.Call) -> bool:
    return any(word.arg == "trust_remote_code" and ast.unparse(word.value) == "False" for word in node.keywords)


def faults(name: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node) in LOADS and name != LOADER:
            json_only = name == PLAIN and called(node) == "load_dataset" and ast.unparse(node.args[0]) == "'json'"
            if not (name == PLAIN and never_trusts(node)) and not json_only:
                yield f"{name}:{node.lineno} calls {called(node)} outside {LOADER}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            yield from (f"{name}:{node.lineno} imports {m}" for m in modules if m.split(".")[0] in UNPICKLERS)
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "torch.load"
            and not any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
        ):
            yield f"{name}:{node.lineno} calls torch.load without weights_only=True"


def test_models_and_data_sets_are_loaded_in_one_module() -> None:
    assert [fault for name, tree in sources() for fault in faults(name, tree)] == []


@pytest.mark.parametrize(
    "line",
    [
        "AutoModel.from_pretrained(x)",
        "load_dataset('json')",
        "SentenceTransformer(x)",
        "torch.load(x)",
        "import pickle",
    ],
)
def test_the_check_of_loads_can_fail(line: str) -> None:
    assert list(faults("tasks/any.py", ast.parse(line)))


def test_the_loader_always_says_whether_code_is_trusted() -> None:
    tree = ast.parse((ROOT / LOADER).read_text(encoding="utf-8"))
    loads = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and called(node) == "from_pretrained"]
    assert len(loads) == 3
    for node in loads:
        assert "trust_remote_code" in {word.arg for word in node.keywords}


def plant_code(folder: Path, file: str, **fields: object) -> Path:
    """A modeling.py that leaves a marker when it runs, named in `file`. Returns the marker's path."""
    marker = folder.parent / "ran"
    (folder / "modeling.py").write_text(MARKER.format(marker=str(marker)))
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields))
    return marker


NAMED: dict[str, tuple[str, dict[str, object]]] = {
    "model": ("config.json", {"auto_map": {"AutoConfig": "modeling.C", "AutoModelForCausalLM": "modeling.M",
                                           "AutoModelForSequenceClassification": "modeling.M",
                                           "AutoModel": "modeling.M"}, "model_type": "own"}),
    "known model": ("config.json", {"auto_map": {"AutoModelForCausalLM": "modeling.M"}}),
    "tokenizer": ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["modeling.T", None]},
                                            "tokenizer_class": "T"}),
    "older tokenizer": ("tokenizer_config.json", {"auto_map": ["modeling.T", None]}),
    "kernel": ("config.json", {"attn_implementation": "somebody/kernel"}),
    "kernel of a part": ("config.json", {"text_config": {"attn_implementation": {"": "somebody/kernel"}}}),
}  # fmt: skip


def as_embedder(folder: Path) -> None:
    embed(find_embedder(str(folder)), ["text"], "cpu")


def as_embedder_unchecked(folder: Path) -> None:
    embed(folder, ["text"], "cpu")


def as_reward_model(folder: Path) -> None:
    annotators = {"rm": {"kind": "reward_model", "path": str(folder), "device": "cpu"}}
    open_annotators(LabelSettings.model_validate({"annotators": annotators}).annotators, 1)


def as_start_of_a_reward_model(folder: Path) -> None:
    fit_reward_model(folder, [], folder.parent / "out", RewardTrainingSettings(epochs=1, batch_size=1), device="cpu")


LOADERS: dict[str, Callable[[Path], object]] = {
    "check_policy_folder": check_policy_folder,
    "load_tokenizer": load_tokenizer,
    "load_policy": lambda folder: load_policy(folder, dtype="float32", device="cpu"),
    "open_meta": open_meta,
    "read_config": read_config,
    "read_model": lambda folder: read_model("classifier", folder),
    "embedder": as_embedder,
    "embed": as_embedder_unchecked,
    "reward model": as_reward_model,
    "reward training": as_start_of_a_reward_model,
}


CASES = [(named, "check_policy_folder") for named in NAMED] + [("tokenizer", loader) for loader in LOADERS]


@pytest.mark.parametrize(("named", "loader"), CASES)
def test_code_of_a_folder_is_refused_and_nobody_is_asked(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, loader: str
) -> None:
    folder = Path(shutil.copytree(tiny_policy, tmp_path / "folder"))
    file, fields = NAMED[named]
    marker = plant_code(folder, file, **fields)
    monkeypatch.setattr(sys, "stdin", None)  # whoever asks fails
    with pytest.raises(UserError) as refusal:
        LOADERS[loader](folder)
    assert file in refusal.value.what
    assert refusal.value.where == str(folder / file)
    assert "trust_remote_code" in refusal.value.remedy
    assert not marker.exists()


def test_code_runs_where_a_setting_trusts_it(tiny_policy: Path, tmp_path: Path) -> None:
    """Otherwise the marker of the test above would show nothing."""
    folder = Path(shutil.copytree(tiny_policy, tmp_path / "folder"))
    file, fields = NAMED["model"]
    marker = plant_code(folder, file, **fields)
    with pytest.raises(ValueError, match=r"AttributeError.*'C'"):  # it has no class C
        read_config(folder, trust_remote_code=True)
    assert marker.read_text() == "ran"


def test_vllm_and_the_harness_are_told_not_to_trust(tiny_policy: Path) -> None:
    assert VllmOptions.model_fields["trust_remote_code"].is_required()
    for name, tree in sources():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            if called(node) == "LLM" and name.startswith("tasks/"):
                assert ast.unparse(node.keywords[0].value) == "options.arguments()", f"{name}:{node.lineno}"
    request = (ROOT / "tasks/evaluation/harness/process.py").read_text(encoding="utf-8")
    assert '"trust_remote_code": model.trust_remote_code' in request
