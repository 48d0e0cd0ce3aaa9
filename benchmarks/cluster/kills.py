"""Kill workers, nodes and the driver of runs on the cluster; the same command is given again until a run is done."""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.chaos.watch import Stages, kill, processes
from benchmarks.cluster.equal import Equality, compare
from benchmarks.cluster.nodes import Nodes
from benchmarks.cluster.processes import left, workers
from benchmarks.cluster.victim import NAME, ClusterVictim

What = Literal["worker", "node", "driver"]
Say = Callable[[str], object]
WHATS: tuple[What, ...] = ("worker", "node", "driver")

_POLL = 0.1  # seconds
_SHARDS = 4  # of a stage, at least
_LIMIT = 900.0  # seconds of one attempt; a command that takes longer hangs
_A_RUN = 6  # kills
_MORE_RUNS = 2  # that may be added for kills that came too late


@dataclass(frozen=True)
class Aim:
    """Kill in the stage number `stage` of a run, once `shards` of its shards are published."""

    stage: int
    shards: int
    what: What


@dataclass
class Tally:
    """What happened in all disturbed runs."""

    kills: Counter[str] = field(default_factory=Counter)
    mid_stage: int = 0  # kills after a stage's first shard
    runs: int = 0
    resumes: int = 0
    refused: list[str] = field(default_factory=list)  # attempts that ended although their driver was not killed
    hung: int = 0
    orphans: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    seconds: float = 0.0


def disturb(victim: ClusterVictim, nodes: Nodes, reference: Path, kills: int, *, seed: int, say: Say) -> Tally:
    """Runs with `kills` kills in all, in the stages that sample, compared with `reference`."""
    draw, tally, clock = random.Random(seed), Tally(), time.monotonic()
    waiting: list[What] = [WHATS[number % len(WHATS)] for number in range(kills)]
    draw.shuffle(waiting)
    while waiting:
        run = _Disturbed(victim, nodes, tally, draw, say, number=tally.runs + 1)
        tally.runs += 1
        waiting = run.until_done(waiting)
        tally.differing += [f"run {tally.runs}: {name}" for name in run.compare(reference).differing]
        if tally.runs == -(-kills // _A_RUN) + _MORE_RUNS:
            break
    tally.seconds = round(time.monotonic() - clock, 1)
    return tally


class _Disturbed:
    """One run folder."""

    def __init__(
        self, victim: ClusterVictim, nodes: Nodes, tally: Tally, draw: random.Random, say: Say, *, number: int
    ) -> None:
        self._victim, self._nodes, self._tally, self._draw, self._say = victim, nodes, tally, draw, say
        self._name = f"disturbed-{number}"
        self._runs = victim.home / self._name
        self._all = Stages(self._runs / NAME, victim.words(self._runs), victim.rounds)
        sampling = victim.sampling_stages()
        #: Numbers of the stages that sample, in the order of the run.
        self.stages = [number for number, (name, _) in enumerate(self._all.folders) if name in sampling]
        self._attempt = 0
        self._aims: list[Aim] = []
        self._missed: list[What] = []

    def until_done(self, waiting: list[What]) -> list[What]:
        """Play with the first kills of `waiting`; returns those that were not done."""
        now, later = waiting[:_A_RUN], waiting[_A_RUN:]
        stages = [self.stages[number % len(self.stages)] for number in range(len(now))]
        aims = [Aim(stage, self._draw.randrange(_SHARDS), what) for stage, what in zip(stages, now, strict=True)]
        self._aims = sorted(aims, key=lambda aim: (aim.stage, aim.shards))
        while not self._play():
            self._tally.resumes += 1
        return self._missed + [aim.what for aim in self._aims] + later

    def compare(self, reference: Path) -> Equality:
        return compare(reference, self._runs / NAME)

    def _play(self) -> bool:
        """Give the command once; whether it finished the run."""
        self._attempt += 1
        mark = f"{self._victim.home.name}/{self._name}/{self._attempt}"
        since, deadline = time.time_ns(), time.monotonic() + _LIMIT
        command = self._victim.start(self._runs, mark, self._victim.home / f"{self._name}.log")
        killed = False
        try:
            while command.poll() is None and time.monotonic() < deadline:
                killed = self._strike_in_time(command, mark, since) or killed
                time.sleep(_POLL)
        finally:
            if command.poll() is None:
                self._tally.hung += 1
                kill(list(processes(mark)), mark)
        code = command.wait()
        self._tally.orphans += left(mark, of_cluster=self._nodes.mark)
        if code and not killed:
            self._tally.refused.append(f"{self._name}, attempt {self._attempt}: exit code {code}")
        if self._attempt > 20:
            raise RuntimeError(f"{self._name} does not finish; see {self._victim.home / self._name}.log")
        return code == 0

    def _strike_in_time(self, command: subprocess.Popen[bytes], mark: str, since: int) -> bool:
        """Do the first kill that is due; whether the driver was killed."""
        while self._aims and self._all.done(self._aims[0].stage):
            self._missed.append(self._aims.pop(0).what)
        if not self._aims or self._all.running(since) != self._aims[0].stage:
            return False
        aim = self._aims[0]
        folder = self._all.folders[aim.stage][1]
        published = len(list(folder.glob("responses-*.parquet")))
        if published < aim.shards or not workers(self._nodes.mark):
            return False
        self._say(f"{self._name}: kill a {aim.what} after {published} shards of {folder.parent.name}/{folder.name}")
        self._strike(command, aim.what, mark)
        self._aims.pop(0)
        self._tally.kills[aim.what] += 1
        self._tally.mid_stage += published > 0
        return aim.what == "driver"

    def _strike(self, command: subprocess.Popen[bytes], what: What, mark: str) -> None:
        if what == "driver":
            command.send_signal(signal.SIGKILL)
        elif what == "node":
            self._nodes.lose(self._draw.randrange(2))
            self._nodes.add()  # as a cluster's operator does
        else:
            with suppress(ProcessLookupError):
                os.kill(self._draw.choice(workers(self._nodes.mark)), signal.SIGKILL)
