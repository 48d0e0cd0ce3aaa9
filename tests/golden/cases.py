"""The cases of the golden tests, and all that these tests import from the project.

When modules move, only this file changes.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tiny import build_policy
from conf.compose import compose_config, group_options
from flows.round import list_stages
from storage.errors import UserError
from storage.manifest import Manifest, read_manifest
from storage.stage import Spec
from tasks.evaluation.harness.settings import HarnessSpec

CHECKOUT = Path(__file__).resolve().parents[2]
#: A process that runs `python -m flows.iterate` for several lists of words, with one server for all.
ITERATE = """
import json, sys
from flows.operations.environment import prepare, quiet_console
from flows.operations.temporary_server import start_temporary_server
prepare()
quiet_console()
start_temporary_server()
from flows.iterate import main
for words in json.loads(sys.argv[1]):
    main(words)
"""
#: Tasks of the harness that come with the project.
TASKS = Path("conf/harness/tasks")

#: Words of every plan but those of presets: the defaults of conf/config.yaml.
BASE = ("policy=policy", "prompts=prompts.jsonl")
#: What a preset or a recipe leaves open.
OPEN = {
    "run=small-gsm8k": ("prompts.path=prompts.jsonl",),
    "run=small-instructions": ("prompts.path=prompts.jsonl",),
    "recipe=conditioned": ("mixing.goals.annotator=concision",),
    "recipe=dice": ("policy.aligned_from=before", "mixing.offline.path=offline.jsonl"),
    "recipe=sera-bootstrap": ("policy.aligned_from=before", "mixing.offline.path=offline.jsonl"),
}
#: What adds stages, and options that no preset and no recipe takes.
COMBINATIONS = (
    ("mixing=replay", "objective.reference=initial"),
    ("+mixing.offline={path: offline.jsonl, share: 0.2, keep: {share: 0.5}}", "policy.aligned_from=before"),
    ("update=momentum",),
    ("update=merge",),
    ("objective.reference=ema",),
    ("harness=files", "harness.tasks=[gsm8k_file]", "harness.data={gsm8k_file: gsm8k.jsonl}"),
    ("harness=leaderboard-v1",),
    ("mt_bench=judge", "mt_bench.questions=questions.jsonl", "mt_bench.references=references.jsonl"),
    ("drafts=ladder", "panel=order"),
    ("drafts=sapo", "panel=order"),
    ("evaluation=plain",),
    ("evaluation=plain", "evaluation.responses=2", "evaluation.pairs=true"),
    ("+evaluation.against.other=rival",),
    ("panel=instructions",),
    ("panel=local-judges",),
    ("panel=references",),
    ("panel=self",),
    ("preferences=tournament",),
    ("engine=transformers",),
    ("training=lora",),
    ("data=pairs.jsonl", "panel=none", "rounds=1", "objective=dpo"),
)


@dataclass(frozen=True)
class Stage:
    """One spec of a plan, as text. `folder` is relative to the run."""

    name: str
    folder: str
    key: str
    text: str


@dataclass(frozen=True)
class Refusal:
    """What the configuration says instead of a plan."""

    text: str


def plan_cases() -> dict[str, dict[str, tuple[str, ...]]]:
    """The words of every plan, by golden file and case."""
    base: dict[str, tuple[str, ...]] = {"base": BASE}
    return {
        "presets.yaml": base | _options("run"),
        "recipes.yaml": _options("recipe", *BASE),
        "objectives.yaml": _options("objective", *BASE),
        "combinations.yaml": {" ".join(words): (*BASE, *words) for words in COMBINATIONS},
    }


def _options(group: str, *words: str) -> dict[str, tuple[str, ...]]:
    cases = [f"{group}={option}" for option in group_options(group)]
    return {case: (*words, case, *OPEN.get(case, ())) for case in cases}


def dry_plan(words: Sequence[str]) -> list[Stage] | Refusal:
    """The stages that `python -m flows.iterate <words> dry_run=plan` shows. Call it in a `workspace`."""
    try:
        config = compose_config(words)
    except UserError as error:
        return Refusal(str(error))
    return [_stage(spec, config.runs / config.name) for spec in list_stages(config)]


def _stage(spec: Spec, run: Path) -> Stage:
    if isinstance(spec, HarnessSpec):  # the installed release of lm-eval
        spec = HarnessSpec(**{**dict(spec), "lm_eval": "?"})
    file = Path("spec.yaml")
    spec.save(file)
    text = file.read_text(encoding="utf-8").replace(str(CHECKOUT), "<checkout>")
    return Stage(spec.stage, spec.folder.relative_to(run).as_posix(), spec.key(), text)


@contextmanager
def workspace() -> Iterator[None]:
    """Work in a temporary folder that holds the small files which plans read, and no model.

    Variables that the configuration reads are unset meanwhile.
    """
    asked = [name for name in os.environ if name.startswith(("JUDGE_", "EVALUATION_JUDGE_"))]
    unset = {name: os.environ.pop(name) for name in asked}
    try:
        with tempfile.TemporaryDirectory() as folder, chdir(folder):
            # Not the folder itself: Python may have left a __pycache__ there, which would be in the stage's key.
            shutil.copytree(CHECKOUT / TASKS, TASKS, ignore=shutil.ignore_patterns("__pycache__"))
            for name in ("gsm8k", "questions", "references"):
                Path(f"{name}.jsonl").write_text("{}\n", encoding="utf-8")
            yield
    finally:
        os.environ.update(unset)


def run_rounds(folder: Path) -> dict[str, Path]:
    """Two runs of two rounds on a tiny policy, as the project's own command makes them; returns their folders by name.

    Between them they have replayed pairs, a moving reference, momentum, a rival, a judge and held-out pairs.
    """
    policy, rival = (build_policy(folder / f"policy-{seed}", seed=seed) for seed in (0, 3))
    prompts = folder / "prompts.jsonl"
    rows = [{"prompt": f"Say {i}", "answer": str(i), "category": ("odd", "even")[i % 2]} for i in range(30)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = [
        f"runs={folder / 'runs'}", f"policy={policy}", f"prompts={prompts}", "prompts.per_round=12",
        "prompts.heldout=0.2", "panel=rules", "panel.annotators.concision.tie_margin=1",
        "+panel.annotators.vowels={kind: rule, require: ['[aeiou]{2}']}", "preferences.drop_truncated=false",
        "evaluation=plain", "evaluation.responses=2", "+evaluation.judges.brief={kind: rule, shorter: true}",
        f"+evaluation.against.other={rival}", "engine=transformers", "sampling.max_tokens=12", "training=small",
        "training.epochs=1", "training.learning_rate=1e-3", "training.prompts_per_step=4", "rounds=2",
    ]  # fmt: skip
    more = {
        "irepo": ["evaluation.pairs=true", "update=momentum"],
        "sppo": ["objective=sppo", "objective.reference={kind: ema, rate: 0.25}", "mixing=replay"],
    }
    runs = json.dumps([[f"name={name}", *words, *its] for name, its in more.items()])
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, "-c", ITERATE, runs],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=400,
        env={name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"} | threads,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
    return {name: folder / "runs" / name for name in more}


def manifests(run: Path) -> dict[str, Manifest]:
    """Manifests of a run's stages, by their folder relative to the run."""
    folders = sorted(path.parent for path in run.rglob("manifest.json"))
    return {folder.relative_to(run).as_posix(): read_manifest(folder) for folder in folders}
