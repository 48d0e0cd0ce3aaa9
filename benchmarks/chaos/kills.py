"""Kill runs repeatedly; the same command is given again until the run is done."""

import random
import shutil
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos.compare import compare
from benchmarks.chaos.victim import NAME, Victim
from benchmarks.chaos.watch import START, Ledger, Stages, kill, processes, role_of, steps_undone
from storage.manifest import MANIFEST

POLL = 0.003  # seconds
GRACE = 5.0  # seconds within which child processes must end after the command
LIMIT = 240.0  # seconds of one attempt; a command that takes longer hangs
EVERYTHING, SERVER = "everything", "temporary server"
#: Relative frequency with which each process is killed, if it is alive.
_WEIGHTS = {EVERYTHING: 3.0, "flow": 3.0, "engine": 2.0, "training": 3.0, SERVER: 1.5}


@dataclass
class Kill:
    """One kill: its stage, the killed process, and the time since the start of the command or stage."""

    stage: str
    process: str
    seconds: float
    run: str
    attempt: int


@dataclass
class Tally:
    """What happened in all disturbed runs."""

    kills: list[Kill] = field(default_factory=list)
    resumes: int = 0
    survived: int = 0  # kills that the command itself survived
    failed: int = 0  # attempts that ended with an error of their own (a worker or the server was killed)
    hung: int = 0
    orphans: Counter[str] = field(default_factory=Counter)
    rewritten: list[str] = field(default_factory=list)
    published: int = 0
    steps_again: int = 0
    mismatches: dict[str, dict[str, str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def by_stage(self) -> Counter[str]:
        return Counter(kill.stage for kill in self.kills)


@dataclass(frozen=True)
class Reference:
    """An undisturbed run: its folder, its seconds, and the seconds of start-up and of every kind of stage."""

    run: Path
    seconds: float
    by_stage: dict[str, float]
    aimed: tuple[str, ...]  # what kills target


def undisturbed(victim: Victim) -> Reference:
    """Run once undisturbed, timed from outside."""
    runs, log = victim.home / "undisturbed", victim.home / "undisturbed.log"
    stages = Stages(runs / NAME, victim.words(runs), victim.rounds)
    since, clock = time.time_ns(), time.monotonic()
    process = victim.start(runs, "undisturbed", log)
    spent: defaultdict[str, float] = defaultdict(float)
    begun: Counter[str] = Counter()
    last, moment = START, clock
    while process.poll() is None:
        now, state = time.monotonic(), stages.now(since)
        spent[last] += now - moment
        begun[state] += state != last
        last, moment = state, now
        time.sleep(POLL)
    if process.returncode:
        raise RuntimeError(f"the undisturbed run failed with code {process.returncode}; see {log}")
    by_stage = {kind: round(seconds / max(1, begun[kind]), 3) for kind, seconds in spent.items()}
    return Reference(stages.run, round(time.monotonic() - clock, 2), by_stage, (START, *stages.aimed))


class Campaign:
    """Disturbed runs. Targets, moments and processes are drawn from `seed`; `seconds`: how long each stage may take."""

    def __init__(self, victim: Victim, seconds: dict[str, float], reference: "Future[Reference]", *, seed: int) -> None:
        self.victim = victim
        self.seconds = seconds
        self.reference = reference
        self.aimed = reference.result().aimed
        self.draw = random.Random(seed)
        self.tally = Tally()
        self.checkpointed: Path | None = None  # copy of a train stage that was killed with checkpoints

    def aims(self, kills: int, *, least: int) -> list[str]:
        """`kills` kinds of stages, each of `aimed` at least `least` times, the rest drawn, in random order."""
        aims = [kind for kind in self.aimed for _ in range(least)][:kills]
        aims += self.draw.choices(self.aimed, k=kills - len(aims))
        self.draw.shuffle(aims)
        return aims

    def run(self, number: int, aims: list[str]) -> list[str]:
        """Run once with kills until it is done; returns the stages that no kill hit."""
        run = _Run(self, number, aims)
        run.until_done()
        self.tally.rewritten += [f"run {number}: {name}" for name in run.ledger.rewritten]
        self.tally.published += len(run.ledger)
        differing = compare(self.reference.result().run, run.folder)
        if differing:
            self.tally.mismatches[run.name] = differing
        return run.left


class _Run:
    """One disturbed run folder."""

    def __init__(self, campaign: Campaign, number: int, aims: list[str]) -> None:
        self.campaign, self.victim, self.tally, self.draw = campaign, campaign.victim, campaign.tally, campaign.draw
        self.name = f"disturbed-{number}"
        self.runs = self.victim.home / self.name
        self.folder = self.runs / NAME
        self.log = self.victim.home / f"{self.name}.log"
        self.stages = Stages(self.folder, self.victim.words(self.runs), self.victim.rounds)
        self.ledger = Ledger(self.folder)
        self.starts = aims.count(START)
        #: Stages to be hit, in the order of the run: each aim at one of the stages of its kind.
        kinds = [kind for kind, _ in self.stages.folders]
        places = [self.draw.choice([i for i, kind in enumerate(kinds) if kind == aim]) for aim in aims if aim != START]
        self.places = sorted(places)
        self.left: list[str] = []
        self.attempt = 0

    def until_done(self) -> None:
        done = False
        while not done:
            self.attempt += 1
            self.tally.resumes += self.attempt > 1
            done = self._attempt()
        self.left += [START] * self.starts + [self.stages.folders[i][0] for i in self.places]

    def _attempt(self) -> bool:
        """Give the command once; return whether the run finished."""
        mark = f"{self.victim.home.name}/{self.name}/{self.attempt}"
        since, clock = time.time_ns(), time.monotonic()
        process = self.victim.start(self.runs, mark, self.log)
        self.deadline = clock + LIMIT
        try:
            if self.starts and self.draw.random() < self.starts / (self.starts + len(self.places)):
                self._in_start_up(process, mark, since, clock)
            for place in self._places():
                if process.poll() is not None or not self._in_stage(process, mark, since, place):
                    break
            self._wait(process)
        finally:
            if process.poll() is None:
                self._end_by_hand(process, mark)
            self._count_orphans(mark)
        self.ledger.look()
        self._look_at_training()
        if process.returncode > 0:
            self.tally.failed += 1
        return process.returncode == 0

    def _end_by_hand(self, process: subprocess.Popen[bytes], mark: str) -> None:
        self.tally.hung += 1
        self.tally.problems.append(f"{self.name}, attempt {self.attempt}: still there after {LIMIT:g} s")
        kill(list(processes(mark)), mark)
        process.wait()

    def _places(self) -> Iterator[int]:
        """Yield the target stages that are still unfinished, and remove each from the list."""
        while self.places:
            place = self.places.pop(0)
            if self.stages.done(place):
                # An earlier kill came too late for this stage: target a later one of its kind, in this run or another.
                kind = self.stages.folders[place][0]
                later = [i for i, (k, _) in enumerate(self.stages.folders) if k == kind and not self.stages.done(i)]
                if later:
                    self.places = sorted([*self.places, later[0]])
                else:
                    self.left.append(kind)
                continue
            yield place

    def _in_start_up(self, process: subprocess.Popen[bytes], mark: str, since: int, clock: float) -> None:
        moment = clock + self.draw.random() * self.campaign.seconds[START]
        while time.monotonic() < moment and process.poll() is None and self.stages.running(since) is None:
            time.sleep(POLL)
        self.starts -= 1
        self._kill(process, mark, since, processes(mark), aim=START, began=clock)

    def _in_stage(self, process: subprocess.Popen[bytes], mark: str, since: int, place: int) -> bool:
        """Wait for the stage and kill in it; False if the command ended first."""
        kind = self.stages.folders[place][0]
        # Training starts with seconds of imports, so later moments, during the steps, are drawn more often.
        moment = self.draw.random() ** (0.4 if kind == "train" else 1.0)
        delay = moment * 0.85 * self.campaign.seconds[kind]
        began: float | None = None
        living, looked = processes(mark), time.monotonic()
        while process.poll() is None and time.monotonic() < self.deadline:
            now = time.monotonic()
            if began is None and self.stages.running(since) == place:
                began = now
            if self.stages.done(place) or (began is not None and now >= began + delay):
                if now - looked > 1.0 or kind == "train":
                    living = processes(mark)
                self._kill(process, mark, since, living, aim=kind, began=began or now)
                return True
            if began is None and now - looked > 0.4:
                living, looked = processes(mark), now
            time.sleep(POLL)
        self.places.insert(0, place)
        return False

    def _kill(
        self, process: subprocess.Popen[bytes], mark: str, since: int, living: dict[int, str], *, aim: str, began: float
    ) -> None:
        """Kill one process or all of them, and record the stage."""
        roles = [EVERYTHING, *sorted(set(living.values()) - {"other"})]
        role = self.draw.choices(roles, [_WEIGHTS[role] for role in roles])[0]
        pids = [pid for pid, what in living.items() if role in (EVERYTHING, what)]
        stage = self.stages.now(since)
        killed = kill(pids, mark)
        seconds = time.monotonic() - began
        if not killed:
            self.left.append(aim)
            return
        self.tally.kills.append(Kill(stage, role, round(seconds, 3), self.name, self.attempt))
        if stage != aim:
            self.left.append(aim)
        if role not in (EVERYTHING, "flow"):
            self.ledger.look()
            if role == "training":
                self._look_at_training()
            time.sleep(0.2)
            self.tally.survived += process.poll() is None

    def _look_at_training(self) -> None:
        """Count the steps that the next attempt repeats; copy the first checkpoints seen."""
        for kind, folder in self.stages.folders:
            if kind == "train":
                self.tally.steps_again += steps_undone(folder)
                interrupted = not (folder / MANIFEST).exists() and any(folder.glob("checkpoints/step-*"))
                if interrupted and self.campaign.checkpointed is None:
                    self.campaign.checkpointed = self.victim.home / "checkpointed"
                    shutil.copytree(folder, self.campaign.checkpointed)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None and time.monotonic() < self.deadline:
            time.sleep(0.02)

    def _count_orphans(self, mark: str) -> None:
        """Wait for child processes to end, then count, name and end those that are left."""
        deadline = time.monotonic() + GRACE
        while (left := processes(mark)) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in left:
            role = role_of(pid, mark)
            if role is not None:
                self.tally.orphans[role] += 1
                self.tally.problems.append(f"{self.name}, attempt {self.attempt}: {role} outlived the command")
        kill(list(left), mark)
