"""A finished generate stage and a finished judge stage, written by hand, and the spec that evaluates them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage.artifact import Artifact
from storage.schemas import PREFERENCES, RESPONSES, SCORES, VOTES, table, write_parquet
from storage.schemas import PROMPTS as PROMPTS_SCHEMA
from storage.stage import Outcome, run_stage
from tasks.evaluation.settings import EvaluateSpec, JudgeSpec, JudgingSettings, MetricsSettings
from tasks.generation.engines.vllm import VllmSettings
from tasks.generation.settings import GenerateSpec, GenerationSettings, SamplingSettings
from tasks.labeling.settings import LabelSettings, LabelSpec
from tests.panel.conftest import importable_voters, world  # noqa: F401  (fixtures)

Rows = Sequence[dict[str, Any]]
PROMPTS = 45


class Evaluation:
    """Builds the input folders under `root` and the spec that reads them."""

    def __init__(self, root: Path, policy: Path, initial: Path) -> None:
        self.root, self.policy, self.initial = root, policy, initial

    @staticmethod
    def response(prompt: int, index: int, *, text: str, ids: list[int], finish: str = "stop") -> dict[str, Any]:
        return {
            "prompt_id": f"p{prompt:03d}",
            "response_index": index,
            "prompt_ids": [1, 10 + prompt, 11, 2],
            "response_ids": ids,
            "text": text,
            "finish_reason": finish,
            "logprobs": [0.0] * len(ids),
            "seed": 0,
        }

    @staticmethod
    def vote(
        prompt: int, outcome: str, *, source: str = "initial", judge: str = "truth", index: int = 0
    ) -> dict[str, Any]:
        return {
            "prompt_id": f"p{prompt:03d}",
            "source_a": "policy",
            "index_a": index,
            "source_b": source,
            "index_b": index,
            "annotator": judge,
            "kind": "pairs",
            "outcome": outcome,
            "order": "both",
        }

    @staticmethod
    def score(
        prompt: int, value: float | None, *, source: str = "policy", annotator: str = "correct"
    ) -> dict[str, Any]:
        outcome = "abstain" if value is None else "score"
        names = {"prompt_id": f"p{prompt:03d}", "source": source, "response_index": 0, "annotator": annotator}
        return names | {"outcome": outcome, "score": value}

    @classmethod
    def responses(cls) -> Rows:
        """Two replies a prompt: the first texts are all equal, every third prompt's second reply is cut off."""
        rows = []
        for prompt in range(PROMPTS):
            ids = [5, 20 + prompt % 7, 30 + prompt, 2]
            cut = "length" if prompt % 3 == 0 else "stop"
            rows.append(cls.response(prompt, 0, text="the same", ids=ids[prompt % 2 :]))
            rows.append(cls.response(prompt, 1, text=f"reply {prompt} of 1", ids=ids[:3], finish=cut))
        return rows

    def generate(self, rows: Rows, *, shards: int = 2, **sampling: Any) -> str:
        spec = GenerateSpec(
            folder=self.root / "responses",
            round=1,
            seed=0,
            settings=GenerationSettings(sampling=SamplingSettings(**sampling), engine=VllmSettings()),
            policy=Artifact.of(self.policy),
            prompts=Artifact(path=self.root / "heldout.parquet", digest="held-out prompts"),
        )
        size = max(1, -(-len(rows) // shards))

        def body() -> Outcome:
            paths = []
            for start in range(0, max(1, len(rows)), size):
                paths.append(spec.folder / f"responses-{start // size:05d}.parquet")
                write_parquet(paths[-1], table(rows[start : start + size], RESPONSES))
            return Outcome(paths=paths)

        return run_stage(spec, body).content

    def judge(self, votes: Rows | None = None, scores: Rows | None = None) -> str:
        spec = JudgeSpec(
            folder=self.root / "judgements",
            round=1,
            seed=0,
            settings=JudgingSettings(judges={}),
            responses={"policy": Artifact.of(self.root / "responses")},
            prompts=Artifact(path=self.root / "heldout.parquet", digest="held-out prompts"),
        )

        def body() -> Outcome:
            paths = []
            files: list[tuple[str, Rows | None, pa.Schema]]
            files = [("votes", votes, VOTES), ("scores", scores, SCORES)]
            for name, rows, schema in files:
                paths.append(spec.folder / f"{name}.parquet")
                write_parquet(paths[-1], table(rows or [], schema))
            return Outcome(paths=paths)

        return run_stage(spec, body).content

    def rival(self, name: str, rows: Rows) -> Path:
        """A finished generate stage of another policy."""
        spec = GenerateSpec(
            folder=self.root / name,
            round=0,
            seed=0,
            settings=GenerationSettings(sampling=SamplingSettings(), engine=VllmSettings()),
            policy=Artifact.of(self.initial),
            prompts=Artifact(path=self.root / "heldout.parquet", digest="held-out prompts"),
        )

        def body() -> Outcome:
            path = spec.folder / "responses-00000.parquet"
            write_parquet(path, table(rows, RESPONSES))
            return Outcome(paths=[path])

        run_stage(spec, body)
        return spec.folder

    def prompts(self, category: Callable[[int], str | None]) -> Path:
        path = self.root / "heldout.parquet"
        messages = [{"role": "user", "content": "?"}]
        rows = [
            {"prompt_id": f"p{i:03d}", "messages": messages, "category": category(i), "source": "here"}
            for i in range(PROMPTS)
        ]
        write_parquet(path, table(rows, PROMPTS_SCHEMA))
        return path

    def pairs(self, p_hat: Callable[[int], float], rows: Rows) -> Path:
        """A finished label stage: of each prompt's two replies the second one is preferred with P-hat of the prompt."""
        spec = LabelSpec(
            folder=self.root / "pairs",
            round=0,
            seed=0,
            settings=LabelSettings(annotators={}),
            responses=Artifact.of(self.root / "responses"),
            prompts=Artifact(path=self.root / "heldout.parquet", digest="held-out prompts"),
        )
        message = [{"role": "user", "content": "?"}]
        by_name = {(row["prompt_id"], row["response_index"]): row for row in rows}
        labelled = [
            {"prompt": message, "chosen": message, "rejected": message, "prompt_id": f"p{i:03d}", "round": 0,
             "chosen_index": 1, "rejected_index": 0, "p_hat": p_hat(i), "target": 0.0, "target_se": 1.0,
             "votes_chosen": 1.0, "votes_rejected": 0.0, "votes_tie": 0.0, "votes_abstain": 0, "votes_error": 0,
             "prompt_ids": by_name[f"p{i:03d}", 0]["prompt_ids"],
             "chosen_ids": by_name[f"p{i:03d}", 1]["response_ids"],
             "rejected_ids": by_name[f"p{i:03d}", 0]["response_ids"],
             "chosen_finish_reason": "stop", "rejected_finish_reason": "stop"}
            for i in range(PROMPTS)
        ]  # fmt: skip

        def body() -> Outcome:
            path = spec.folder / "preferences.parquet"
            write_parquet(path, table(labelled, PREFERENCES))
            return Outcome(paths=[path])

        run_stage(spec, body)
        return spec.folder

    def spec(self, name: str = "evaluate", **changes: Any) -> EvaluateSpec:
        fields: dict[str, Any] = {
            "folder": self.root / name,
            "round": 1,
            "seed": 7,
            "settings": MetricsSettings(bootstrap=200, divergence_tokens=256, device="cpu"),
            "responses": self.root / "responses",
            "judgements": self.root / "judgements",
            "policy": self.policy,
            "initial": self.initial,
        }
        return EvaluateSpec(**fields | changes)


@pytest.fixture
def evaluation(tmp_path: Path, make_policy: Callable[..., Path]) -> Evaluation:
    return Evaluation(tmp_path, policy=make_policy(seed=1), initial=make_policy(seed=0))
