"""The probe of dry_run=true: one small round with the run's own models and settings, measured stage by stage.

It plays `play_start` and `play_round` on the first prompts of round 1, in `runs/<name>/probe`. Answers of chat models
are kept with the run: nothing that the probe asked is asked again.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel

from conf.schema import RunConfig
from flows.plan import Plan
from flows.round import play_round, play_start
from flows.specs import select_spec
from flows.stages import BareStages
from storage.artifact import Artifact
from storage.layout import RunLayout
from storage.manifest import Manifest
from storage.schemas import write_parquet
from tasks.engines import close_engines
from tasks.evaluation.harness.settings import HarnessSettings
from tasks.evaluation.mt_bench.settings import MtBenchSettings
from tasks.generation.prompts import HELDOUT, ROUND, TRAIN
from tasks.mixing.data import PAIRS, PROMPTS_FILE
from tasks.panel.annotators.human import HumanSettings
from tasks.panel.annotators.registry import AnnotatorSettings
from tasks.panel.annotators.rule import RuleSettings

_Settings = TypeVar("_Settings", bound=BaseModel)

PROMPTS, HELD_OUT = 32, 16  # of round 1, and to evaluate on
_EVERY = 0.2  # seconds between two looks at the memory


class ProbeLayout(RunLayout):
    """The probe's folder inside a run's; it shares the run's answers of chat models."""

    @property
    def answers(self) -> Path:
        return self.root.parent / "answers"


class ProbePlan(Plan):
    """A run's plan with the probe's configuration and folder. config.runs is the run folder, config.name `probe`."""

    @cached_property
    def layout(self) -> RunLayout:
        return ProbeLayout(self.config.runs / self.config.name)


@dataclass
class Probe:
    """What the probe measured.

    start, round: manifests of rounds 0 and 1, by stage, in order. prompts, held_out: numbers of the probe; of_prompts,
    of_held_out: those of the run. peak: bytes of this process and its children together at most. people: annotators
    that were left out. stand_in: whether a rule voted in their place, because nobody else is on the panel.
    """

    prompts: int
    of_prompts: int
    held_out: int
    of_held_out: int
    people: tuple[str, ...]
    stand_in: bool
    start: Mapping[str, Manifest] = field(default_factory=dict)
    round: Mapping[str, Manifest] = field(default_factory=dict)
    peak: int = 0
    folder: Path = Path()


class _ProbeStages(BareStages):
    """Runs stages in this process; prompts and pairs are the probe's few."""

    def prompts(self, plan: Plan) -> Artifact:
        return Artifact.of(plan.layout.prompts)

    def data(self, plan: Plan) -> Artifact:
        return Artifact.of(plan.layout.data)


def run_probe(plan: Plan) -> Probe:
    """Play rounds 0 and 1 on a few prompts of `plan`, whose prompts are published. Raises UserError as the run would.

    lm-eval and MT-Bench are left out: their cost does not follow from a part of them. People are not asked.
    """
    config, people, stand_in = _without_people(plan.config)
    small = ProbePlan(_small(config, plan.layout.root), plan.initial, plan.aligned_from, plan.named)
    probe = _take_prompts(plan, small, people, stand_in)
    with _peak_memory() as peak:
        try:
            first = _ProbeStages()
            play_start(first, small)
            second = _ProbeStages()
            play_round(second, small, 1, [0])
        finally:
            close_engines()
    probe.start, probe.round, probe.peak = first.manifests, second.manifests, max(peak)
    probe.folder = small.layout.root
    return probe


def _without_people(config: RunConfig) -> tuple[RunConfig, tuple[str, ...], bool]:
    """The configuration without people, their names, and whether a rule votes in their place."""
    panel = config.panel.annotators
    people = tuple(name for name, each in panel.items() if isinstance(each, HumanSettings))
    if not people:
        return config, (), False
    others: dict[str, AnnotatorSettings] = {name: each for name, each in panel.items() if name not in people}
    stand_in = not others
    if stand_in:
        others = {"stand-in": RuleSettings(shorter=True)}
    voters = _changed(config.panel, annotators=others)
    preferences = _changed(config.preferences, quorum=1, weights={}, gold=[])
    return _changed(config, panel=voters, preferences=preferences), people, stand_in


def _small(config: RunConfig, root: Path) -> RunConfig:
    """One optimizer step, in the run folder's subfolder `probe`."""
    return _changed(
        config,
        runs=root,
        name="probe",
        rounds=1,
        prompts=_changed(config.prompts, per_round=None),
        panel=_changed(config.panel, overlap=False),  # sampling and votes are measured apart
        training=_changed(config.training, epochs=1, prompts_per_step=PROMPTS),
        harness=HarnessSettings(),
        mt_bench=MtBenchSettings(),
    )


def _changed(settings: _Settings, **values: object) -> _Settings:
    """The settings made anew with other values, which are validated."""
    return type(settings)(**{name: getattr(settings, name) for name in type(settings).model_fields} | values)


def _take_prompts(plan: Plan, small: Plan, people: tuple[str, ...], stand_in: bool) -> Probe:
    """Publish the probe's prompts and, for offline training, its pairs."""
    stages = BareStages()
    held_out = pq.read_table(plan.layout.prompts / HELDOUT)
    if plan.config.data is None:
        chosen = pq.read_table(stages(select_spec(plan, 1, stages.prompts(plan))).path / ROUND)
    else:
        chosen = pq.read_table(plan.layout.prompts / TRAIN)
    write_parquet(small.layout.prompts / TRAIN, chosen[:PROMPTS])
    write_parquet(small.layout.prompts / HELDOUT, held_out[:HELD_OUT])
    if plan.config.data is not None:
        kept = pa.concat_tables([chosen[:PROMPTS], held_out[:HELD_OUT]])["prompt_id"].combine_chunks()
        pairs = pq.read_table(plan.layout.data / PAIRS)
        write_parquet(small.layout.data / PAIRS, pairs.filter(pc.is_in(pairs["prompt_id"], value_set=kept)))
        write_parquet(small.layout.data / PROMPTS_FILE, pq.read_table(plan.layout.data / PROMPTS_FILE)[:PROMPTS])
    return Probe(
        prompts=min(PROMPTS, len(chosen)),
        of_prompts=len(chosen),
        held_out=min(HELD_OUT, len(held_out)),
        of_held_out=len(held_out),
        people=people,
        stand_in=stand_in,
    )


@contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """A list that grows with the resident bytes of this process and all its children, several times a second."""
    seen, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(_EVERY):
            seen.append(_resident())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()
        seen.append(_resident())


def _resident() -> int:
    own = psutil.Process()
    total = 0
    for process in (own, *own.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.Error:  # it has just ended
            continue
    return total
