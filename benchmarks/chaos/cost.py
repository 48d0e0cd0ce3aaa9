"""What durability costs: the flow against bare stage functions, in turns, each in a process of its own."""

import json
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass

from benchmarks.chaos.victim import PROJECT, Victim

PERCENT, SECONDS = 5.0, 5.0  # durability may cost a round at most this much more
_ROUNDS = 2
#: A round of about twenty seconds on one core, mostly training, with the default shards and checkpoints.
_WORDS = (
    f"rounds={_ROUNDS}", "prompts.per_round=128", "sampling.responses=4", "sampling.max_tokens=48", "panel=rules",
    "evaluation=plain", "evaluation.responses=2", "engine=vllm-small", "engine.kv_cache_gib=0.25",
    "engine.max_model_len=128", "preferences.drop_truncated=false", "training=small", "training.epochs=16",
    "training.prompts_per_step=2",
)  # fmt: skip


@dataclass
class Cost:
    """Seconds per round, by repetition."""

    durable: list[float]
    bare: list[float]

    @property
    def seconds(self) -> float:
        return statistics.median(self.durable) - statistics.median(self.bare)

    @property
    def percent(self) -> float:
        return 100 * self.seconds / statistics.median(self.bare)


def measure(victim: Victim, repetitions: int) -> Cost:
    """Run both arms `repetitions` times, in alternating order."""
    cost = Cost([], [])
    arms = {"durable": cost.durable, "bare": cost.bare}
    for repetition in range(repetitions):
        for arm in sorted(arms, reverse=repetition % 2 == 0):
            arms[arm].append(_time(victim, arm, repetition))
    return cost


def _time(victim: Victim, arm: str, repetition: int) -> float:
    folder = victim.home / f"{arm}-{repetition}"
    figures = victim.home / f"{arm}-{repetition}.json"
    words = [f"name={arm}", f"runs={folder}", *victim.data_words(), *_WORDS]
    command = [sys.executable, "-m", "benchmarks.chaos.arms", arm, str(figures), *words]
    done = subprocess.run(command, cwd=PROJECT, env=victim.environment(arm), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the {arm} arm failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    shutil.rmtree(folder)
    return float(json.loads(figures.read_text(encoding="utf-8"))["seconds"]) / _ROUNDS
