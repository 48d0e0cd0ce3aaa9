"""A small stage to publish: two files, one of them in a folder; and small runs of several rounds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pydantic import BaseModel, ConfigDict
from safetensors.numpy import save_file

from storage.files import publish_text, sha256_file
from storage.schemas import write_parquet
from storage.stage import Outcome, Spec, run_stage


class CountSettings(BaseModel):
    until: int = 3


class CountSpec(Spec):
    stage: ClassVar[str] = "count"
    version: ClassVar[int] = 1

    settings: CountSettings
    source: Path = Path("somewhere")


@pytest.fixture
def spec(tmp_path: Path) -> CountSpec:
    return CountSpec(
        folder=tmp_path / "run" / "count", round=1, seed=5, inputs={"source": "abc"}, settings=CountSettings()
    )


@pytest.fixture
def body(spec: CountSpec) -> Callable[[], Outcome]:
    """Publishes the files and counts its calls in `body.calls`."""

    def publish() -> Outcome:
        publish.calls += 1  # type: ignore[attr-defined]
        publish_text(spec.folder / "numbers.txt", "0 1 2\n")
        publish_text(spec.folder / "model" / "weights.bin", "w" * 100)
        return Outcome(
            paths=[spec.folder / "numbers.txt", spec.folder / "model"], rows={"numbers": 3}, summary={"mean": 1.0}
        )

    publish.calls = 0  # type: ignore[attr-defined]
    return publish


class Settings(BaseModel):
    """Settings of any shape: what a stage's settings look like is no matter of lineage."""

    model_config = ConfigDict(extra="allow")


class AnySpec(Spec):
    """A spec with the paths that irepo's stages name."""

    stage: ClassVar[str] = "any"
    version: ClassVar[int] = 1

    settings: Settings
    policy: Path | None = None
    reference: Path | None = None
    prompts: Path | None = None
    responses: Path | dict[str, Path] | None = None
    preferences: Path | None = None
    judgements: Path | None = None


class SmallRun:
    """A run folder made by run_stage as flows.iterate lays it out, in milliseconds: no model, a few rows."""

    def __init__(self, root: Path, outside: Path, *, rate: float = 0.5, seed: int = 0, rounds: int = 2) -> None:
        self.root, self.rate, self.seed = root, rate, seed
        self.prompt_file = outside / "prompts.jsonl"
        self.initial = outside / "policy"
        self.config = {"name": root.name, "runs": "runs", "seed": seed, "rounds": rounds, "training": {"rate": rate}}
        root.mkdir(parents=True)
        (root / "config.yaml").write_text(yaml.safe_dump(self.config))
        policy = sha256_file(self.initial / "model.bin")
        given = {"prompts": sha256_file(self.prompt_file), "policy": policy, "context": "256:64"}
        self.prompts = self.publish(
            "prompts", "prompts", 0, given, {"path": str(self.prompt_file)}, lambda folder: write_prompts(folder)
        )
        for number in range(1, rounds + 1):
            policy = self.round(number, policy)

    def publish(
        self,
        name: str,
        stage: str,
        number: int,
        inputs: dict[str, str],
        settings: dict[str, Any],
        write: Callable[[Path], list[Path]],
        **paths: Any,
    ) -> str:
        """Run one stage; returns its content."""
        folder = self.root / name
        kind = type(stage, (AnySpec,), {"stage": stage, "__annotations__": {}})
        spec = kind(folder=folder, round=number, seed=self.seed, inputs=inputs, settings=Settings(**settings), **paths)
        return run_stage(spec, lambda: Outcome(paths=write(folder), rows={"rows": 3}, summary={"figure": 0.25})).content

    def round(self, number: int, policy: str) -> str:
        """All stages of a round, from the policy with digest `policy`; returns the next one's."""
        name = f"round-{number:02d}"
        start = self.root / f"round-{number - 1:02d}" / "train" / "policy" if number > 1 else self.initial
        generated = self.publish(
            f"{name}/generate",
            "generate",
            number,
            {"prompts": self.prompts, "policy": policy},
            {"sampling": {"temperature": 1.0}},
            lambda folder: write_responses(folder, f"{policy[:4]} {self.seed}"),
            policy=start,
            prompts=self.root / "prompts" / "train.parquet",
        )
        labelled = self.publish(
            f"{name}/label",
            "label",
            number,
            {"prompts": self.prompts, "responses": generated, "annotator:one": "1" * 64},
            {"annotators": {"one": {"kind": "reward_model", "path": "models/one"}}},
            lambda folder: write_preferences(folder, number),
            responses=self.root / name / "generate",
            prompts=self.root / "prompts" / "train.parquet",
        )
        trained = self.publish(
            f"{name}/train",
            "train",
            number,
            {"policy": policy, "reference": policy, "preferences": labelled},
            {"optimization": {"learning_rate": self.rate}, "objective": {"beta": 0.1}},
            lambda folder: write_policy(folder, number * self.rate),
            policy=start,
            reference=start,
            preferences=self.root / name / "label" / "preferences.parquet",
        )
        responses = self.publish(
            f"{name}/evaluate/responses",
            "generate",
            number,
            {"prompts": self.prompts, "policy": trained},
            {},
            lambda folder: write_responses(folder, trained[:4]),
            policy=self.root / name / "train" / "policy",
            prompts=self.root / "prompts" / "heldout.parquet",
        )
        self.publish(
            f"{name}/evaluate",
            "evaluate",
            number,
            {"policy": trained, "initial": sha256_file(self.initial / "model.bin"), "responses": responses},
            {"bootstrap": 100},
            lambda folder: write_text(folder / "metrics.json", f'{{"kl": {number * self.rate}, "words": 7}}'),
            policy=self.root / name / "train" / "policy",
            responses=self.root / name / "evaluate" / "responses",
        )
        return trained


def write_text(path: Path, text: str) -> list[Path]:
    publish_text(path, text)
    return [path]


def write_prompts(folder: Path) -> list[Path]:
    paths = [folder / "train.parquet", folder / "heldout.parquet"]
    for path in paths:
        write_parquet(path, pa.table({"prompt_id": ["a", "b", "c"], "source": [path.stem] * 3}))
    return paths


def write_responses(folder: Path, text: str) -> list[Path]:
    path = folder / "responses-00000-of-00001.parquet"
    write_parquet(path, pa.table({"prompt_id": ["a", "b", "c"], "text": ["same", text, text]}))
    return [path]


def write_preferences(folder: Path, number: int) -> list[Path]:
    path = folder / "preferences.parquet"
    write_parquet(path, pa.table({"prompt_id": ["a", "b", "c"], "target": [0.5, 1.0, -float(number)]}))
    return [path]


def write_policy(folder: Path, value: float) -> list[Path]:
    (folder / "policy").mkdir(exist_ok=True)
    tensors = {"fixed": np.ones(3, np.float32), "moved": np.array([0.0, value], np.float32)}
    save_file(tensors, folder / "policy" / "model.safetensors")
    return [folder / "policy", *write_text(folder / "metrics.jsonl", f'{{"step": 1, "loss": {value}}}\n')]


MakeRun = Callable[..., SmallRun]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Makes the small run of a name: `make_run("one", rate=0.5, seed=0, rounds=2)`; all start from the same outside."""
    outside = tmp_path / "outside"
    (outside / "policy").mkdir(parents=True)
    (outside / "policy" / "model.bin").write_text("weights")
    (outside / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    return lambda name, **options: SmallRun(tmp_path / "runs" / name, outside, **options)
