"""Every stage's spec of a run, from its configuration alone: what is read, what is written, what it is keyed by."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from conf.schema import RunConfig
from storage.files import digest, sha256_file
from storage.layout import RunLayout
from storage.manifest import folder_digest, read_manifest
from storage.stage import Spec
from tasks.evaluation.harness.settings import HarnessRunSettings, HarnessSpec, ModelSettings, harness_version
from tasks.evaluation.settings import EvaluateSpec, MetricsSettings
from tasks.generation.dialogue import FILE as DIALOGUES_FILE
from tasks.generation.dialogue import DialogueSettings, DialogueSpec
from tasks.generation.prompts import HELDOUT, ROUND, PromptsSpec, SelectSettings, SelectSpec
from tasks.generation.settings import GenerateSpec, GenerationSettings
from tasks.labeling.annotators.settings import POLICY_NAMES
from tasks.labeling.grading import GradeSettings, GradeSpec
from tasks.labeling.mixing import PREFERENCES_FILE, MixSpec
from tasks.labeling.settings import AnnotatorSettings, JudgeSpec, JudgingSettings, LabelSettings, LabelSpec
from tasks.training.settings import TrainingSettings, TrainSpec
from tasks.training.update import AsTrained, Momentum, UpdateSpec


def what_it_reads(annotator: AnnotatorSettings) -> str | None:
    """Digest of the local files that decide how an annotator votes; None where its settings say it all.

    Of a function this is its module's source, not the modules that it imports in turn.
    """
    names = (name for name in annotator.reads() if name not in POLICY_NAMES)
    found = [contents for name in names if (contents := _contents(name)) is not None]
    return digest(found) if found else None


def _contents(name: str) -> str | None:
    """Digest of a folder, a file, or the module of "package.module:name"; None for what is not on this machine."""
    path = Path(name)
    if path.is_dir():
        return folder_digest(path)
    if path.is_file():
        return sha256_file(path)
    module, colon, _ = name.partition(":")
    try:
        spec = find_spec(module) if colon else None
    except (ModuleNotFoundError, ValueError):
        return None  # opening the annotator says so, with the remedy
    return sha256_file(Path(spec.origin)) if spec and spec.origin else None


@dataclass(frozen=True)
class Plan:
    """Builds the specs of one run. `inputs` are digests, known once the stage before is done."""

    config: RunConfig
    initial: Path  # folder of the initial policy

    @cached_property
    def layout(self) -> RunLayout:
        return RunLayout.of(self.config.runs, self.config.name)

    def policy(self, round_number: int) -> Path:
        """The policy that round `round_number` ends with; round 0's is the initial policy."""
        stage = "train" if self.config.update.kind == "none" else "update"
        return self.layout.stage(round_number, stage) / "policy" if round_number else self.initial

    def trained(self, round_number: int) -> Path:
        """What round `round_number` has trained: its policy, but for an update that follows."""
        return self.layout.stage(round_number, "train") / "policy" if round_number else self.initial

    @cached_property
    def model_inputs(self) -> dict[str, str]:
        """Digests of what annotators and judges read: model folders, modules of functions, templates."""
        groups = {
            "annotator": self.config.panel.annotators,
            "judge": self.config.evaluation.judges,
            "rate": self.config.evaluation.rates,
        }
        read = {
            f"{group}:{name}": what_it_reads(settings)
            for group, annotators in groups.items()
            for name, settings in annotators.items()
        }
        return {name: value for name, value in read.items() if value is not None}

    def prompts(self, inputs: dict[str, str]) -> PromptsSpec:
        return PromptsSpec(folder=self.layout.prompts, round=0, seed=0, inputs=inputs, settings=self.config.prompts)

    def select(self, round_number: int, inputs: dict[str, str]) -> SelectSpec:
        return SelectSpec(
            folder=self.layout.stage(round_number, "prompts"),
            round=round_number,
            seed=self.config.seed,
            inputs=inputs,
            settings=SelectSettings(per_round=self.config.prompts.per_round),
            prompts=self.layout.prompts,
        )

    def generate(self, round_number: int, base: int, inputs: dict[str, str]) -> GenerateSpec:
        """Responses to the round's training prompts by the policy that the round starts from: that of round `base`."""
        return GenerateSpec(
            folder=self.layout.stage(round_number, "generate"),
            round=round_number,
            seed=self.config.seed,
            inputs=inputs,
            settings=self._generation(self.config.sampling.responses),
            policy=self.policy(base),
            prompts=self.layout.stage(round_number, "prompts") / ROUND,
        )

    def _generation(self, responses: int) -> GenerationSettings:
        sampling = self.config.sampling.model_copy(update={"responses": responses})
        return GenerationSettings(
            sampling=sampling,
            engine=self.config.engine,
            trust_remote_code=self.config.policy.trust_remote_code,
        )

    @cached_property
    def policies_asked(self) -> set[str]:
        """Which of the run's policies annotators of the panel ask: policy, previous, initial."""
        read = (name for annotator in self.config.panel.annotators.values() for name in annotator.reads())
        return set(read) & set(POLICY_NAMES)

    def label(self, round_number: int, base: int, previous: int, inputs: dict[str, str]) -> LabelSpec:
        """Votes on responses of the policy of round `base`, which itself started from that of round `previous`."""
        models = {name: value for name, value in self.model_inputs.items() if name.startswith("annotator:")}
        return LabelSpec(
            folder=self.layout.stage(round_number, "label"),
            round=round_number,
            seed=self.config.seed,
            inputs=inputs | models,
            settings=LabelSettings(
                annotators=self.config.panel.annotators,
                preferences=self.config.preferences,
            ),
            responses=self.layout.stage(round_number, "generate"),
            prompts=self.layout.stage(round_number, "prompts") / ROUND,
            answers=self.layout.answers,
            budget=self.config.panel.budget,
            policies={"policy": self.policy(base), "previous": self.policy(previous), "initial": self.initial},
        )

    def train(self, round_number: int, base: int, chain: Sequence[int], inputs: dict[str, str]) -> TrainSpec:
        """The policy of round `base` in, the round's policy out. What else the objective reads is added to `inputs`.

        `chain` as for `update`.
        """
        labels = self.layout.stage(round_number, "label")
        replayed, needs = self._replayed(chain), self.config.objective.needs()
        labelled = [*replayed, round_number]
        if needs.scores is not None or needs.votes or needs.win_rates:
            inputs = inputs | {f"labels:{n}": self._labelled_digest(n) for n in replayed}
        return TrainSpec(
            folder=self.layout.stage(round_number, "train"),
            round=round_number,
            seed=self.config.seed,
            inputs=inputs | self._embedder_input,
            settings=TrainingSettings(
                objective=self.config.objective,
                optimization=self.config.training,
                trust_remote_code=self.config.policy.trust_remote_code,
            ),
            policy=self.policy(base),
            reference=self._reference(base),
            preferences=labels / PREFERENCES_FILE
            if self.config.mixing.nothing
            else self.layout.stage(round_number, "mix") / PREFERENCES_FILE,
            scores={number: self.layout.stage(number, "label") / "scores.parquet" for number in labelled},
            votes={number: self.layout.stage(number, "label") / "votes.parquet" for number in labelled},
            extra=self.layout.stage(round_number, "extra"),
        )

    def _reference(self, base: int) -> Path:
        return self.policy(base) if self.config.objective.reference == "previous" else self.initial

    @cached_property
    def _embedder_input(self) -> dict[str, str]:
        """Digest of the encoder's folder, where the objective reads one from this machine."""
        embedder = self.config.objective.needs().embedder
        contents = _contents(embedder) if embedder else None
        return {"embedder": contents} if contents else {}

    def extra(self, round_number: int, base: int, inputs: dict[str, str]) -> GenerateSpec | None:
        """One more response to each prompt of the round, by the reference, where the objective needs one."""
        kind = self.config.objective.needs().extra
        if kind is None:
            return None
        spec = self.generate(round_number, base, inputs)
        sampling = spec.settings.sampling.model_copy(update={"responses": 1})
        if kind == "greedy":
            sampling = sampling.model_copy(update={"temperature": 0.0})
        return spec.model_copy(
            update={
                "folder": self.layout.stage(round_number, "extra"),
                "seed": self.config.seed + 2,  # shares no randomness with the responses that are compared
                "settings": spec.settings.model_copy(update={"sampling": sampling}),
                "policy": self._reference(base),
            }
        )

    def mix(self, round_number: int, base: int, chain: Sequence[int], inputs: dict[str, str]) -> MixSpec | None:
        """From what was labelled to what is trained on; None where they are the same. `chain` as for `update`."""
        settings = self.config.mixing
        if settings.nothing:
            return None
        earlier = self._replayed(chain)
        labelled = {f"preferences:{n}": self._labelled_digest(n) for n in earlier}
        offline = {"offline": sha256_file(settings.offline.path)} if settings.offline else {}
        return MixSpec(
            folder=self.layout.stage(round_number, "mix"),
            round=round_number,
            seed=self.config.seed,
            inputs=inputs | labelled | offline,
            settings=settings,
            own=self.layout.stage(round_number, "label") / PREFERENCES_FILE,
            earlier=[self.layout.stage(n, "label") / PREFERENCES_FILE for n in earlier],
            policy=self.policy(base),
        )

    def _replayed(self, chain: Sequence[int]) -> list[int]:
        """The earlier rounds whose pairs are trained on again."""
        settings = self.config.mixing
        return [n for n in chain if n][-(settings.rounds or 0) :] if settings.replay else []

    def update(self, round_number: int, chain: Sequence[int], inputs: dict[str, str]) -> UpdateSpec | None:
        """From what was trained to the round's policy; None where they are the same.

        `chain`: the rounds that led here, from 0 to the base of this one.
        """
        settings = self.config.update
        if isinstance(settings, AsTrained):
            return None
        earlier = chain[-1:] if isinstance(settings, Momentum) else [n for n in chain if n][-(settings.last - 1) :]
        return UpdateSpec(
            folder=self.layout.stage(round_number, "update"),
            round=round_number,
            seed=self.config.seed,
            inputs=inputs | {f"trained:{n}": self._trained_digest(n) for n in earlier},
            settings=settings,
            trained=self.trained(round_number),
            earlier=[self.trained(n) for n in earlier],
        )

    def _labelled_digest(self, round_number: int) -> str:
        return read_manifest(self.layout.stage(round_number, "label")).content

    def _trained_digest(self, round_number: int) -> str:
        if round_number == 0:
            return folder_digest(self.initial)
        return read_manifest(self.layout.stage(round_number, "train")).content

    def evaluate(
        self, round_number: int, base: int, inputs: dict[str, str]
    ) -> tuple[GenerateSpec, JudgeSpec, EvaluateSpec]:
        """Specs of the evaluation of `policy(round_number)` on held-out prompts, beside initial policy and base."""
        folder = self.layout.stage(round_number, "evaluate")
        evaluation = self.config.evaluation
        models = {name: value for name, value in self.model_inputs.items() if not name.startswith("annotator:")}
        responses = GenerateSpec(
            folder=folder / "responses",
            round=round_number,
            seed=self.config.seed + 1,  # held-out samples share no randomness with training ones
            inputs={"prompts": inputs["prompts"], "policy": inputs["policy"]},
            settings=self._generation(evaluation.responses),
            policy=self.policy(round_number),
            prompts=self.layout.prompts / HELDOUT,
        )
        judge = JudgeSpec(
            folder=folder / "judgements",
            round=round_number,
            seed=self.config.seed,
            inputs=inputs | models,
            settings=JudgingSettings(judges=evaluation.judges, rates=evaluation.rates),
            responses={"policy": responses.folder}
            | {
                name: self.layout.stage(number, "evaluate") / "responses"
                for name, number in self.rivals(round_number, base)
            },
            prompts=responses.prompts,
            answers=self.layout.answers,
        )
        metrics = EvaluateSpec(
            folder=folder,
            round=round_number,
            seed=self.config.seed,
            inputs={"policy": inputs["policy"], "initial": inputs["initial"]},
            settings=MetricsSettings(
                bootstrap=evaluation.bootstrap,
                divergence_tokens=evaluation.batch_tokens,
                dtype=self.config.training.dtype,
                device=self.config.training.device,
                trust_remote_code=self.config.policy.trust_remote_code,
            ),
            responses=responses.folder,
            judgements=judge.folder,
            policy=self.policy(round_number),
            initial=self.initial,
            harness=folder / "harness" if self.config.harness.tasks else None,
            mt_bench=folder / "grades" if self.config.mt_bench.questions else None,
        )
        return responses, judge, metrics

    @cached_property
    def benchmarks(self) -> list[str]:
        """Folders of an evaluation's further stages."""
        found = ["harness"] if self.config.harness.tasks else []
        return [*found, *(["dialogues", "grades"] if self.config.mt_bench.questions else [])]

    def mt_bench(self, round_number: int, inputs: dict[str, str]) -> tuple[DialogueSpec, GradeSpec] | None:
        """MT-Bench's answers by `policy(round_number)`, whose digest is in `inputs`, and their grades."""
        asked, folder = self.config.mt_bench, self.layout.stage(round_number, "evaluate")
        if asked.questions is None or asked.judge is None:
            return None
        references = {"references": sha256_file(asked.references)} if asked.references else {}
        dialogue = DialogueSpec(
            folder=folder / "dialogues",
            round=round_number,
            seed=self.config.seed + 1,
            inputs={"policy": inputs["policy"], "questions": sha256_file(asked.questions)} | references,
            settings=DialogueSettings(
                max_tokens=asked.max_tokens,
                engine=self.config.engine,
                trust_remote_code=self.config.policy.trust_remote_code,
            ),
            policy=self.policy(round_number),
            questions=asked.questions,
            references=asked.references,
        )
        read = [path for name in [*asked.judge.reads(), str(asked.judge.prompts or "")] if (path := _contents(name))]
        grade = GradeSpec(
            folder=folder / "grades",
            round=round_number,
            seed=self.config.seed,
            inputs={"judge": digest(read)} if read else {},
            settings=GradeSettings(judge=asked.judge),
            dialogues=dialogue.folder / DIALOGUES_FILE,
            answers=self.layout.answers,
        )
        return dialogue, grade

    def harness(self, round_number: int, inputs: dict[str, str]) -> HarnessSpec | None:
        """lm-eval's tasks on `policy(round_number)`, whose digest is in `inputs`; None where none is asked."""
        harness, engine = self.config.harness, self.config.engine
        if not harness.tasks:
            return None
        folders = {f"include:{number}": folder_digest(folder) for number, folder in enumerate(harness.include)}
        files = {f"data:{task}": sha256_file(path) for task, path in harness.data.items()}
        return HarnessSpec(
            folder=self.layout.stage(round_number, "evaluate") / "harness",
            round=round_number,
            seed=0,  # lm-eval has its own
            inputs={"policy": inputs["policy"], "lm_eval": harness_version() or "?"} | folders | files,
            settings=HarnessRunSettings(
                harness=harness,
                model=ModelSettings(
                    dtype=engine.dtype,
                    device=self.config.training.device,
                    max_model_len=engine.max_model_len,
                    enforce_eager=engine.enforce_eager,
                    tensor_parallel=engine.tensor_parallel,
                    gpu_memory_utilization=engine.gpu_memory_utilization,
                    kv_cache_gib=engine.kv_cache_gib,
                    trust_remote_code=self.config.policy.trust_remote_code,
                ),
            ),
            policy=self.policy(round_number),
        )

    @staticmethod
    def rivals(round_number: int, base: int) -> list[tuple[str, int]]:
        """Whom a round's policy is compared with, and that policy's round. `previous`: what the round started from."""
        if round_number == 0:
            return []
        return [("initial", 0)] if base == 0 else [("initial", 0), ("previous", base)]

    def dry_run(self) -> list[Spec]:
        """Specs of the run's first round and of its evaluation, with inputs not yet known."""
        harness = self.harness(1, {"policy": "?"})
        unknown = {
            "prompts": "?",
            "policy": "?",
            "initial": "?",
            "reference": "?",
            "responses": "?",
            "preferences": "?",
        }
        extra = self.extra(1, 0, {"prompts": "?", "policy": "?"})
        return [
            self.prompts({"prompts": "?"}),
            self.select(1, {"prompts": "?"}),
            self.generate(1, 0, {"prompts": "?", "policy": "?"}),
            self.label(1, 0, 0, {"prompts": "?", "responses": "?"}),
            *([extra] if extra else []),
            self.train(1, 0, [0], {"policy": "?", "reference": "?", "preferences": "?"}),
            *self.evaluate(1, 0, unknown),
            *([harness] if harness else []),
        ]
