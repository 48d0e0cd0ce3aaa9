"""The run that is killed: a random policy, its prompts, and the real command in its own environment."""

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tiny import build_policy

PROJECT = Path(__file__).resolve().parents[2]
#: Environment variable of every process of an attempt. It identifies its descendants in /proc/<pid>/environ.
MARK = "IREPO_CHAOS"
NAME = "victim"


@dataclass(frozen=True)
class Victim:
    """Where the benchmark keeps its files, and how large the run is."""

    home: Path  # everything lies below: policy, prompts, run folders, Prefect's database and results
    rounds: int = 2
    epochs: int = 6  # so that most of a train stage is steps, not start-up
    prompts: int = 3000
    heldout: int = 32

    @property
    def policy(self) -> Path:
        return self.home / "policy"

    @property
    def train_file(self) -> Path:
        return self.home / "prompts.jsonl"

    @property
    def heldout_file(self) -> Path:
        return self.home / "heldout.jsonl"

    def make(self, seed: int = 0) -> None:
        """Build policy and prompts."""
        build_policy(self.policy, seed=seed)
        write_prompts(self.train_file, self.prompts, seed=seed)
        write_prompts(self.heldout_file, self.heldout, seed=seed + 1)

    def data_words(self) -> list[str]:
        """The policy and the prompts, in the command's words."""
        return [f"policy={self.policy}", f"prompts={self.train_file}", f"prompts.heldout={self.heldout_file}"]

    def words(self, runs: Path) -> list[str]:
        """The command's words. Small shards and frequent checkpoints give many points at which to kill."""
        return [
            f"name={NAME}", f"runs={runs}", *self.data_words(), "prompts.per_round=48", f"rounds={self.rounds}",
            "panel=rules", "evaluation=plain", "evaluation.responses=2",
            "+panel.annotators.variety={kind: function, function: 'benchmarks.chaos.voter:variety'}",
            "+evaluation.judges.variety={kind: function, function: 'benchmarks.chaos.voter:variety'}",
            "+evaluation.rates.variety={kind: function, function: 'benchmarks.chaos.voter:variety'}",
            "sampling.responses=6",
            "engine=vllm-small", "engine.kv_cache_gib=0.25", "engine.max_model_len=128", "engine.shard_prompts=8",
            "sampling.max_tokens=24", "preferences.drop_truncated=false",
            "training=small", "training.launch=process", f"training.epochs={self.epochs}",
            "training.prompts_per_step=2", "training.checkpoint_steps=4",
        ]  # fmt: skip

    def environment(self, mark: str) -> dict[str, str]:
        """No server of the user's, one thread per process, and `mark` to identify the processes."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "IREPO_"))}
        return environment | {
            MARK: mark,
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "PREFECT_HOME": str(self.home / "prefect"),
            "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(self.home / "results"),
        }

    def start(self, runs: Path, mark: str, log: Path) -> subprocess.Popen[bytes]:
        """The real command, in a session of its own. Its output is appended to `log`."""
        with open(log, "ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "flows.iterate", *self.words(runs)],
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment(mark),
                start_new_session=True,
            )


def write_prompts(path: Path, count: int, *, seed: int) -> None:
    """`count` short prompts, all different."""
    draw = random.Random(seed)
    lines = [
        json.dumps({"prompt": f"Say {seed}-{i} and {draw.randrange(1000)}", "answer": str(i)}) for i in range(count)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
