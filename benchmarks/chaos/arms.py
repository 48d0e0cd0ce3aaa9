"""One run, in this process, timed: as the flow does it, or the bare stage functions.

    python -m benchmarks.chaos.arms durable <file for the figures> <words of a configuration>

durable: the flow `irepo` with Prefect's temporary server, manifests, digests, fsync, parts and checkpoints.
bare: the bodies of the same stages on the same specs, one after the other. `run_stage` only calls the body; nothing is
hashed, synced or marked, no checkpoint is written, and there is no Prefect. What the stages write is the same.

Both clocks run from the start of the first round to the end of the last. They leave out what happens once in a run:
before the first round imports, the start of server and engine, the checks of prompts and policy, and the evaluation of
the initial policy; after the last round the report's figures as files and the shutdown of server and engine.
Figures: `seconds` of all rounds; `rounds` and `cpu`, the wall and CPU seconds of each round. CPU seconds include child
processes.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import psutil
from prefect.states import State

from conf.compose import compose_config
from flows.checks import find_policy
from flows.operations.environment import prepare, quiet_console
from flows.operations.temporary_server import await_server, start_temporary_server
from flows.plan import Plan
from flows.round import complete_round, play_round, play_start
from flows.show.artifacts import draw_figures
from flows.specs import prompts_spec
from flows.stages import BareStages
from storage.artifact import Artifact
from storage.manifest import FileEntry, Manifest
from storage.stage import Outcome, Spec
from tasks.engines import close_engines
from tasks.evaluation.record import RoundRecord
from tasks.generation.prompts import prompt_artifacts

#: At the start of each round and the end of the last: seconds on the monotonic clock, and CPU seconds.
_marks: list[tuple[float, float]] = []


def _mark() -> None:
    """Note the time at the start of a round or at the end of the last one."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    _marks.append((time.monotonic(), sum(sum(process.cpu_times()[:2]) for process in processes)))


def main(arm: str, figures: Path, words: list[str]) -> None:
    prepare()
    quiet_console()
    _import_rooms()
    run = {"durable": _durable, "bare": _bare}[arm](words)
    run()
    steps = list(pairwise(_marks))
    figures_of_run = {
        "seconds": _marks[-1][0] - _marks[0][0],
        "rounds": [after[0] - before[0] for before, after in steps],
        "cpu": [after[1] - before[1] for before, after in steps],
    }
    figures.write_text(json.dumps(figures_of_run), encoding="utf-8")


def _import_rooms() -> None:
    """Import the same modules in both arms. Otherwise the flow would import torch in its first round."""
    import accelerate  # noqa: F401

    import tasks.evaluation.divergence
    import tasks.evaluation.judging
    import tasks.evaluation.stage
    import tasks.generation.stage
    import tasks.generation.verify
    import tasks.labeling.stage
    import tasks.training.trainer  # noqa: F401


def _durable(words: list[str]) -> Callable[[], object]:
    start_temporary_server()
    from flows import iterate

    def noted(plan: Plan, number: int, before: list[RoundRecord]) -> RoundRecord | State[None]:
        _mark()
        return complete_round(plan, number, before)

    def ended(plan: Plan) -> None:
        _mark()
        draw_figures(plan)

    vars(iterate).update(complete_round=noted, draw_figures=ended)
    await_server()
    return lambda: iterate.irepo(overrides=words)


class StrippedStages(BareStages):
    """Stages whose manifests are kept in memory only."""

    def __init__(self, finished: dict[Path, Manifest]) -> None:
        super().__init__()
        self._finished = finished

    def made(self, plan: Plan, round_number: int, stage: str) -> Artifact:
        folder = plan.folder(round_number, stage)
        return Artifact.of_stage(folder, self._finished[folder])

    def prompts(self, plan: Plan) -> Artifact:
        return Artifact.of_stage(plan.layout.prompts, self._finished[plan.layout.prompts])


def _bare(words: list[str]) -> Callable[[], object]:
    finished = _strip()

    def run() -> None:
        config = compose_config(words)
        plan, stages = Plan(config, Artifact.of(find_policy(config.policy))), StrippedStages(finished)
        files = prompt_artifacts(config.prompts)
        stages(prompts_spec(plan, *files, context=config.engine.max_model_len or 256))
        try:
            play_start(stages, plan)
            for number in range(1, config.rounds + 1):
                _mark()
                play_round(stages, plan, number, range(number))
            _mark()
        finally:
            close_engines()

    return run


def _strip() -> dict[Path, Manifest]:
    """Replace the functions that make stages durable: files are written as before, manifests stay in memory.

    Returns the manifests of finished stages by folder. Every stage that runs adds its own.
    """
    import storage.artifact
    import tasks.evaluation.judging
    import tasks.evaluation.stage
    import tasks.generation.prompts
    import tasks.generation.stage
    import tasks.labeling.stage
    import tasks.panel.responses
    import tasks.training.reference
    import tasks.training.trainer

    finished: dict[Path, Manifest] = {}

    def run_stage(spec: Spec, body: Callable[[], Outcome]) -> Manifest:
        spec.folder.mkdir(parents=True, exist_ok=True)
        outcome = body()
        names = [path.relative_to(spec.folder).as_posix() for path in outcome.paths]
        finished[spec.folder] = Manifest(
            stage=spec.stage, round=spec.round, key="", inputs={}, settings=spec.settings.model_dump(mode="json"),
            files=[FileEntry(path=name, bytes=0, sha256="") for name in names], rows=outcome.rows,
            summary=outcome.summary, stage_version=spec.version, seed=spec.seed, started="", seconds=0.0, versions={},
        )  # fmt: skip
        return finished[spec.folder]

    replacements: dict[str, Callable[..., object]] = {
        "run_stage": run_stage,
        "read_manifest": lambda folder, check_files=True: finished[folder],
        "has_part": lambda spec, path: False,
        "mark_part": lambda spec, path: None,
        "save_checkpoint": lambda folder, **state: None,
    }
    rooms = (tasks.evaluation, tasks.generation, tasks.labeling, tasks.panel, tasks.training)
    inside = [module for room in rooms for module in vars(room).values() if isinstance(module, ModuleType)]
    for module in [*inside, storage.artifact]:
        for name in replacements.keys() & vars(module).keys():
            setattr(module, name, replacements[name])
    vars(os).update(fsync=lambda handle: None)
    return finished


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
