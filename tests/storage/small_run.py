"""Small runs of several rounds, in a folder with the layout of a real run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import yaml
from pydantic import BaseModel, ConfigDict, Field
from safetensors.numpy import save_file

from storage.artifact import Artifact
from storage.files import publish_text
from storage.schemas import write_parquet
from storage.stage import Outcome, Spec, run_stage


class Settings(BaseModel):
    """Settings of any shape."""

    model_config = ConfigDict(extra="allow")


class AnySpec(Spec):
    """A spec with the artifacts that irepo's stages read."""

    stage: ClassVar[str] = "any"
    version: ClassVar[int] = 1

    settings: Settings
    policy: Artifact | None = None
    initial: Artifact | None = None
    reference: Artifact | None = None
    prompts: Artifact | None = None
    heldout: Artifact | None = None
    responses: Artifact | None = None
    preferences: Artifact | None = None
    annotator_files: dict[str, Artifact] = Field({})


class SmallRun:
    """A run folder with the layout of a real run, made by run_stage in milliseconds: no model, a few rows."""

    def __init__(self, root: Path, outside: Path, *, rate: float = 0.5, seed: int = 0, rounds: int = 2) -> None:
        self.root, self.rate, self.seed = root, rate, seed
        self.prompt_file = Artifact.of(outside / "prompts.jsonl")
        self.initial = Artifact.of(outside / "policy")
        self.reward_model = Artifact(path=Path("models/one"), digest="1" * 64)
        self.config = {"name": root.name, "runs": "runs", "seed": seed, "rounds": rounds, "training": {"rate": rate}}
        root.mkdir(parents=True)
        (root / "config.yaml").write_text(yaml.safe_dump(self.config))
        self.prompts = self.publish(
            "prompts",
            "prompts",
            0,
            {"path": str(self.prompt_file.path)},
            write_prompts,
            prompts=self.prompt_file,
            heldout=Artifact(path=Path("org/set"), digest="org/set:test"),
            policy=self.initial,
        )
        policy = self.initial
        for number in range(1, rounds + 1):
            policy = self.round(number, policy)

    def publish(
        self,
        name: str,
        stage: str,
        number: int,
        settings: dict[str, Any],
        write: Callable[[Path], list[Path]],
        **inputs: Artifact | dict[str, Artifact],
    ) -> Artifact:
        """Run one stage. write: publishes its files in the folder given to it; returns their paths."""
        folder = self.root / name
        kind: type[AnySpec] = type(stage, (AnySpec,), {"stage": stage, "__module__": __name__, "__annotations__": {}})
        fields: dict[str, Any] = dict(inputs)
        spec = kind(folder=folder, round=number, seed=self.seed, settings=Settings(**settings), **fields)
        manifest = run_stage(
            spec, lambda: Outcome(paths=write(folder), rows={"rows": 3}, summary={"figure": 0.25, "name": "x"})
        )
        return Artifact.of_stage(folder, manifest)

    def round(self, number: int, policy: Artifact) -> Artifact:
        """All stages of a round, from `policy`; returns the policy that it ends with."""
        name = f"round-{number:02d}"
        responses = self.publish(
            f"{name}/generate",
            "generate",
            number,
            {"sampling": {"temperature": 1.0}},
            lambda folder: write_responses(folder, f"{policy.digest[:4]} {self.seed}"),
            policy=policy,
            prompts=self.prompts / "train.parquet",
        )
        labels = self.label(number, responses, self.reward_model)
        trained = self.publish(
            f"{name}/train",
            "train",
            number,
            {"optimization": {"learning_rate": self.rate}, "objective": {"beta": 0.1}},
            lambda folder: write_policy(folder, number * self.rate),
            policy=policy,
            reference=policy,
            preferences=labels / "preferences.parquet",
        )
        heldout = self.publish(
            f"{name}/evaluate/responses",
            "generate",
            number,
            {},
            lambda folder: write_responses(folder, trained.digest[:4]),
            policy=trained / "policy",
            prompts=self.prompts / "heldout.parquet",
        )
        self.publish(
            f"{name}/evaluate",
            "evaluate",
            number,
            {"bootstrap": 100},
            lambda folder: write_text(folder / "metrics.json", f'{{"kl": {number * self.rate}, "words": 7}}'),
            policy=trained / "policy",
            initial=self.initial,
            responses=heldout,
        )
        return trained / "policy"

    def label(self, number: int, responses: Artifact, reward_model: Artifact) -> Artifact:
        """The label stage of a round, by a reward model whose votes are always the same."""
        return self.publish(
            f"round-{number:02d}/label",
            "label",
            number,
            {"annotators": {"one": {"kind": "reward_model", "path": str(reward_model.path)}}},
            lambda folder: write_preferences(folder, number),
            responses=responses,
            prompts=self.prompts / "train.parquet",
            annotator_files={"one": reward_model},
        )


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
