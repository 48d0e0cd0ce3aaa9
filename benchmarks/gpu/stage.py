"""A small train stage on a random policy; as a command, it runs the stage of a spec.

    python -m benchmarks.gpu.stage <spec.yaml>      to its end
    python -m benchmarks.gpu.stage <spec.yaml> 3    until it ends itself by SIGKILL after three steps

The section `resume` runs it as a process of its own.
"""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.bench import Bench
from benchmarks.tiny import build_policy
from benchmarks.training.world import build_groups

if TYPE_CHECKING:
    from tasks.training.settings import TrainSpec

VOCABULARY = 300  # of the policy


def write_spec(folder: Path, name: str, bench: Bench) -> "TrainSpec":
    """The spec of the stage `name` in `folder`, saved as <name>.yaml. All stages share policy and preferences."""
    from storage.schemas import PREFERENCES, table, write_parquet
    from tasks.training.objectives.irepo import Irepo
    from tasks.training.settings import OptimizationSettings, TrainingSettings, TrainSpec

    policy, preferences = folder / "policy", folder / "preferences.parquet"
    if not preferences.exists():
        build_policy(policy, seed=0)
        write_parquet(preferences, table(_rows(12 if bench.tiny else 192), PREFERENCES))
    spec = TrainSpec(
        folder=folder / name,
        round=1,
        seed=0,
        settings=TrainingSettings(
            objective=Irepo(name="irepo", reference="previous"),
            optimization=OptimizationSettings(
                device="cuda" if bench.device == "cuda" else "cpu",
                checkpoint_steps=2,
                prompts_per_step=2 if bench.tiny else 4,
                learning_rate=1e-4,
            ),
        ),
        policy=policy,
        reference=policy,
        preferences=preferences,
    )
    spec.save(folder / f"{name}.yaml")
    return spec


def _rows(prompts: int) -> list[dict[str, Any]]:
    """A pair for each prompt. Lengths fit the policy's context of 256 tokens."""
    text = [{"role": "user", "content": "what is the sum"}]
    return [
        {
            "prompt": text,
            "chosen": text,
            "rejected": text,
            "prompt_id": group.prompt_id,
            "round": 1,
            "chosen_index": 0,
            "rejected_index": 1,
            "p_hat": 0.73,
            "target": 1.0,
            "target_se": 1.0,
            "votes_chosen": 1.0,
            "votes_rejected": 0.0,
            "votes_tie": 0.0,
            "votes_abstain": 0,
            "votes_error": 0,
            "prompt_ids": group.prompt_ids[:100].tolist(),
            "chosen_ids": group.responses[0][:100].tolist(),
            "rejected_ids": group.responses[1][:100].tolist(),
            "chosen_finish_reason": "stop",
            "rejected_finish_reason": "stop",
        }
        for group in build_groups(prompts, 2, VOCABULARY)
    ]


def main(path: Path, kill_after: int | None) -> None:
    from storage.stage import load_spec
    from tasks.training.settings import TrainSpec
    from tasks.training.trainer import run

    def progress(done: int, total: int, unit: str) -> None:
        if (done, unit) == (kill_after, "steps"):
            os.kill(os.getpid(), signal.SIGKILL)

    run(load_spec(path, TrainSpec), progress)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
