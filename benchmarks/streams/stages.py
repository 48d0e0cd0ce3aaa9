"""One stage on made-up data, in this process: its seconds and the most memory that the process ever had.

    python -m benchmarks.streams.stages <stage> <folder> <prompts> <policy folder>

Prints one JSON object: wall and CPU seconds of the stage, and bytes resident at most (`peak`) and before it (`before`).
What a stage reads, the stages before it have left in `folder`. Models are left out where they are not what is asked:
responses come from an engine that makes them up, the panel has rules and a verifier, the divergence is of a policy
from itself.
"""

import json
import random
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from storage.artifact import Artifact

RESPONSES, WORDS = 4, 60  # a prompt; a prompt and a response, about
_VOCABULARY = ("sum", "red", "apple", "of", "and", "the", "9", "blue", "is", "a", "number", "bigger", "goat")

Body = Callable[[], object]


class MadeUp:
    """An Engine of random tokens."""

    def check(self, policy: Path) -> None: ...

    def load(self, policy: Path) -> None: ...

    def prepare(self, policy: Path) -> None: ...

    def pause(self) -> None: ...

    def close(self) -> None: ...

    def sample(self, requests: Sequence[Any], sampling: Any) -> list[list[Any]]:
        from tasks.generation.engines import Sample

        drawn = []
        for request in requests:
            noise = random.Random(request.seed)
            lengths = [noise.randrange(WORDS // 2, 3 * WORDS // 2) for _ in range(sampling.responses)]
            drawn.append(
                [
                    Sample([noise.randrange(20, 200) for _ in range(n)], [-noise.random() for _ in range(n)], "stop")
                    for n in lengths
                ]
            )
        return drawn


def make_prompts(path: Path, count: int) -> None:
    """A JSONL file of `count` prompts, all different."""
    noise = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            text = " ".join(noise.choices(_VOCABULARY, k=WORDS))
            file.write(json.dumps({"prompt": f"{number}: {text}", "answer": str(number % 10)}) + "\n")


def prompts(folder: Path, count: int, policy: Path) -> Body:
    from tasks.generation.prompts import PromptSettings, PromptsSpec, run_prompts

    path = folder / "prompts.jsonl"
    spec = PromptsSpec(
        folder=folder / "prompts", round=0, seed=0, settings=PromptSettings(path=str(path), heldout=0.01),
        prompts=Artifact.of(path), policy=Artifact.of(policy), context=4096, max_tokens=64,
    )  # fmt: skip
    return lambda: run_prompts(spec)


def select(folder: Path, count: int, policy: Path) -> Body:
    from tasks.generation.prompts import SelectSettings, SelectSpec, run_select

    spec = SelectSpec(
        folder=folder / "select", round=1, seed=0, settings=SelectSettings(per_round=None),
        prompts=Artifact.of(folder / "prompts"),
    )  # fmt: skip
    return lambda: run_select(spec)


def generate(folder: Path, count: int, policy: Path, name: str = "generate") -> Body:
    from tasks.generation.engines.transformers import TransformersSettings
    from tasks.generation.settings import GenerateSpec, GenerationSettings, SamplingSettings
    from tasks.generation.stage import run

    engine = TransformersSettings(max_model_len=4096, shard_prompts=256, verify_sequences=0)
    spec = GenerateSpec(
        folder=folder / name, round=1, seed=len(name), policy=Artifact.of(policy),
        prompts=Artifact.of(folder / "select" / "prompts.parquet"),
        settings=GenerationSettings(sampling=SamplingSettings(responses=RESPONSES, max_tokens=256), engine=engine),
    )  # fmt: skip
    return lambda: run(spec, engine=MadeUp())


def rival(folder: Path, count: int, policy: Path) -> Body:
    return generate(folder, count, policy, "rival")


def _panel() -> Any:
    from pydantic import TypeAdapter

    from tasks.panel.annotators.registry import AnnotatorSettings

    panel = {
        "concision": {"kind": "rule", "shorter": True, "tie_margin": 3},
        "answer": {"kind": "verifier", "method": "contains"},
        "goats": {"kind": "rule", "require": ["goat"]},
    }
    return TypeAdapter(dict[str, AnnotatorSettings]).validate_python(panel)


def label(folder: Path, count: int, policy: Path) -> Body:
    from tasks.labeling.settings import LabelSettings, LabelSpec
    from tasks.labeling.stage import run

    spec = LabelSpec(
        folder=folder / "label", round=1, seed=0, settings=LabelSettings(annotators=_panel()),
        responses=Artifact.of(folder / "generate"),
        prompts=Artifact.of(folder / "select" / "prompts.parquet"),
    )  # fmt: skip
    return lambda: run(spec)


def mix(folder: Path, count: int, policy: Path) -> Body:
    from tasks.mixing.settings import MixingSettings
    from tasks.mixing.stage import MixSpec, run_mix

    own = Artifact.of(folder / "label" / "preferences.parquet")
    spec = MixSpec(
        folder=folder / "mix", round=2, seed=0, settings=MixingSettings(replay="all"), own=own,
        earlier=[own],
    )  # fmt: skip
    return lambda: run_mix(spec)


def train_data(folder: Path, count: int, policy: Path) -> Body:
    """What training reads before it loads a model."""
    from tasks.training.groups import read_preferences

    return lambda: read_preferences(folder / "label" / "preferences.parquet")


def judge(folder: Path, count: int, policy: Path) -> Body:
    from tasks.evaluation.judging import run_judging
    from tasks.evaluation.settings import JudgeSpec, JudgingSettings

    spec = JudgeSpec(
        folder=folder / "judge", round=1, seed=0, settings=JudgingSettings(judges=_panel(), rates={}),
        responses={"policy": Artifact.of(folder / "generate"), "initial": Artifact.of(folder / "rival")},
        prompts=Artifact.of(folder / "select" / "prompts.parquet"),
    )  # fmt: skip
    return lambda: run_judging(spec)


def evaluate(folder: Path, count: int, policy: Path) -> Body:
    from tasks.evaluation.settings import EvaluateSpec, MetricsSettings
    from tasks.evaluation.stage import run

    spec = EvaluateSpec(
        folder=folder / "evaluate", round=1, seed=0, settings=MetricsSettings(),
        responses=Artifact.of(folder / "generate"), judgements=Artifact.of(folder / "judge"),
        policy=Artifact.of(policy), initial=Artifact.of(policy),
    )  # fmt: skip
    return lambda: run(spec)


STAGES: dict[str, Callable[[Path, int, Path], Body]] = {
    "prompts": prompts,
    "select": select,
    "generate": generate,
    "rival": rival,
    "label": label,
    "judge": judge,
    "mix": mix,
    "evaluate": evaluate,
    "train (its data)": train_data,
}


def main(stage: str, folder: Path, count: int, policy: Path) -> None:
    body = STAGES[stage](folder, count, policy)
    before = psutil.Process().memory_info().rss
    wall, cpu = time.monotonic(), time.process_time()
    body()
    found = {"wall": time.monotonic() - wall, "cpu": time.process_time() - cpu, "before": before}
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
