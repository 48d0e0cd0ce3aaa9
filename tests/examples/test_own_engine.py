"""examples/engine: a user's own engine samples a generate stage, without a change to the project's files."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from conf.compose import PROJECT, compose_config
from examples.engine.min_p import MinPSettings
from storage.errors import UserError
from storage.files import sha256_file
from storage.schemas import RESPONSES, read_parquet
from storage.stage import keyed, load_spec
from tasks.generation.engines import Request
from tasks.generation.engines.transformers import TransformersSettings
from tasks.generation.registry import ENGINES
from tasks.generation.settings import GenerateSpec, SamplingSettings
from tasks.generation.stage import run
from tests.generation.conftest import MakeSpec, make_spec, requests
from tests.plugin_files import PluginFiles

__all__ = ["make_spec", "requests"]

EXAMPLE = PROJECT / "examples/engine"
KIND = "examples.engine.min_p:MinPSettings"


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)


def test_the_commands_of_the_readme_compose() -> None:
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    commands = [shlex.split(line)[3:] for line in re.findall(r"^    (\S+ -m flows\.iterate .*)$", text, re.MULTILINE)]
    by_file, by_path = (compose_config(words).engine for words in commands)
    assert isinstance(by_file, MinPSettings)
    assert isinstance(by_path, MinPSettings)
    assert (by_file.min_p, by_path.min_p) == (0.1, 0.2)
    assert by_file.kind == by_path.kind == KIND


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+engine.min_p=1"], "engine.min_p: 1 must be less than 1"),
        (["+engine.minp=0.1"], "engine.minp: MinPSettings has no such setting; did you mean min_p?"),
        (["engine.dtype=int8"], "engine.dtype"),
    ],
)
def test_its_settings_are_checked_like_ours(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as refused:
        compose_config(["run=demo", f"engine.kind={KIND}", *words])
    assert message in str(refused.value)


def test_it_samples_a_stage(make_spec: MakeSpec) -> None:
    """The stage accepts its log-probabilities; its spec can be read again; its settings and source are in the key."""
    spec = make_spec(kind=KIND, min_p=0.1)
    manifest = run(spec)
    rows = read_parquet(spec.folder / manifest.files[0].path, RESPONSES)
    assert manifest.rows["responses"] == 14
    assert rows.num_rows == 6  # three prompts in the first of three shards
    assert len({tuple(ids) for ids in rows["response_ids"].to_pylist()}) == 6
    assert 0 < manifest.summary["sampler_gap_max"] < 1e-4
    again = load_spec(spec.folder / "spec.yaml", GenerateSpec)
    assert (again, again.key()) == (spec, spec.key())
    assert keyed(spec.settings)["engine_source"] == sha256_file(EXAMPLE / "min_p.py")
    assert make_spec(kind=KIND, min_p=0.2).key() != spec.key()
    assert "engine_source" not in keyed(make_spec().settings)


def test_a_large_min_p_leaves_the_most_likely_token(tiny_policy: Path, requests: list[Request]) -> None:
    own, ours = MinPSettings(dtype="float32", min_p=0.999).open(), TransformersSettings(dtype="float32").open()
    own.load(tiny_policy)
    ours.load(tiny_policy)
    drawn = own.sample(requests[:2], SamplingSettings(responses=1, max_tokens=8))
    greedy = ours.sample(requests[:2], SamplingSettings(responses=1, max_tokens=8, temperature=0))
    for [sample], [expected] in zip(drawn, greedy, strict=True):
        assert (sample.token_ids, sample.finish_reason) == (expected.token_ids, expected.finish_reason)
        assert sample.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


def test_an_entry_point_is_a_kind(package: PluginFiles) -> None:
    package.write(
        "their_engine.py",
        "from examples.engine.min_p import MinPSettings\nclass Theirs(MinPSettings):\n    kind: str = 'theirs'\n",
    )
    package.entry_point("irepo.engines", "theirs = their_engine:Theirs")
    assert ENGINES.names() == ["transformers", "vllm", "theirs"]
    engine = compose_config(["run=demo", "engine.kind=theirs"]).engine
    assert type(engine).__name__ == "Theirs"
    assert yaml.safe_load(engine.model_dump_json())["min_p"] == 0.05
