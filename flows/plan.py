"""Every stage's spec of a run, from its configuration alone: what is read, what is written, what it is keyed by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from conf.schema import RunConfig
from storage.files import digest, sha256_file
from storage.layout import RunLayout
from storage.manifest import folder_digest, read_manifest
from storage.stage import Spec
from tasks.evaluation.settings import EvaluateSpec, MarginSettings, MetricsSettings
from tasks.generation.prompts import HELDOUT, ROUND, PromptsSpec, SelectSettings, SelectSpec
from tasks.generation.settings import GenerateSpec, GenerationSettings
from tasks.labeling.annotators.settings import POLICY_NAMES, AnnotatorBase
from tasks.labeling.mixing import PREFERENCES_FILE, MixSpec
from tasks.labeling.settings import JudgeSpec, JudgingSettings, LabelSettings, LabelSpec
from tasks.training.objectives.moving import whence
from tasks.training.settings import TrainingSettings, TrainSpec
from tasks.training.update import AsTrained, Momentum, UpdateSpec


def what_it_reads(annotator: AnnotatorBase) -> str | None:
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
    named: Mapping[str, Path] = field(default_factory=dict)  # folders of further policies to compare with

    @cached_property
    def layout(self) -> RunLayout:
        return RunLayout.of(self.config.runs, self.config.name)

    def policy(self, round_number: int) -> Path:
        """The policy that round `round_number` ends with; round 0's is the initial policy."""
        stage = "train" if self.config.update.kind == "none" else "update"
        return self.layout.stage(round_number, stage) / "policy" if round_number else self.initial

    @property
    def before_initial(self) -> Path:
        """What the initial policy was aligned from, as far as that is known; else itself."""
        return Path(self.config.policy.aligned_from) if self.config.policy.aligned_from else self.initial

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
            policies={
                "policy": self.policy(base),
                "previous": self.policy(previous) if base else self.before_initial,
                "initial": self.initial,
            },
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
            reference=self.reference(round_number, chain),
            preferences=labels / PREFERENCES_FILE
            if self.config.mixing.nothing
            else self.layout.stage(round_number, "mix") / PREFERENCES_FILE,
            scores={number: self.layout.stage(number, "label") / "scores.parquet" for number in labelled},
            votes={number: self.layout.stage(number, "label") / "votes.parquet" for number in labelled},
            extra=self.layout.stage(round_number, "extra"),
        )

    def reference(self, round_number: int, chain: Sequence[int]) -> Path:
        """The policy that round `round_number` takes log-ratios against. `chain` as for `update`."""
        made, number = whence(self.config.objective.reference, round_number, chain)
        return self.policy(number) if made == "policy" else self.layout.stage(number, "reference") / "policy"

    def reference_digest(self, round_number: int, chain: Sequence[int], policies: Mapping[int, str]) -> str:
        """Its digest, once it is there; `policies`: digests of the policies that rounds ended with, by round."""
        made, number = whence(self.config.objective.reference, round_number, chain)
        return policies[number] if made == "policy" else read_manifest(self.layout.stage(number, "reference")).content

    def moves_reference(self, round_number: int, chain: Sequence[int]) -> bool:
        """Whether the round's reference is a stage of its own."""
        return whence(self.config.objective.reference, round_number, chain) == ("reference", round_number)

    def move(self, round_number: int, chain: Sequence[int], policies: Mapping[int, str]) -> UpdateSpec | None:
        """From the reference before to this round's; None where it is a policy, or still the one before.

        `chain` as for `update`, `policies` as for `reference_digest`.
        """
        moving = self.config.objective.reference
        if isinstance(moving, str) or not self.moves_reference(round_number, chain):
            return None
        base, before = chain[-1], chain[:-1]
        return UpdateSpec(
            folder=self.layout.stage(round_number, "reference"),
            round=round_number,
            seed=self.config.seed,
            inputs={"policy": policies[base], "reference": self.reference_digest(base, before, policies)},
            settings=moving,
            trained=self.policy(base),
            earlier=[self.reference(base, before)],
        )

    @cached_property
    def _embedder_input(self) -> dict[str, str]:
        """Digest of the encoder's folder, where the objective reads one from this machine."""
        embedder = self.config.objective.needs().embedder
        contents = _contents(embedder) if embedder else None
        return {"embedder": contents} if contents else {}

    def extra(self, round_number: int, chain: Sequence[int], inputs: dict[str, str]) -> GenerateSpec | None:
        """One more response to each prompt of the round, by the reference, where the objective needs one.

        `chain` as for `update`.
        """
        kind = self.config.objective.needs().extra
        if kind is None:
            return None
        spec = self.generate(round_number, chain[-1], inputs)
        sampling = spec.settings.sampling.model_copy(update={"responses": 1})
        if kind == "greedy":
            sampling = sampling.model_copy(update={"temperature": 0.0})
        return spec.model_copy(
            update={
                "folder": self.layout.stage(round_number, "extra"),
                "seed": self.config.seed + 2,  # shares no randomness with the responses that are compared
                "settings": spec.settings.model_copy(update={"sampling": sampling}),
                "policy": self.reference(round_number, chain),
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
        previous = self.policy(chain[-2]) if len(chain) > 1 else self.before_initial
        if settings.offline and settings.offline.keep:
            first = folder_digest(self.before_initial)
            before = self._policy_digest(chain[-2]) if len(chain) > 1 else first
            offline |= {"policy": self._policy_digest(base), "previous": before, "reference": first}
        return MixSpec(
            folder=self.layout.stage(round_number, "mix"),
            round=round_number,
            seed=self.config.seed,
            inputs=inputs | labelled | offline,
            settings=settings,
            own=self.layout.stage(round_number, "label") / PREFERENCES_FILE,
            earlier=[self.layout.stage(n, "label") / PREFERENCES_FILE for n in earlier],
            policy=self.policy(base),
            previous=previous,
            reference=self.before_initial,
            scores={n: self.layout.stage(n, "label") / "scores.parquet" for n in [*earlier, round_number]},
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

    def _policy_digest(self, round_number: int) -> str:
        if round_number == 0:
            return folder_digest(self.initial)
        return read_manifest(self.policy(round_number).parent).content

    def _labelled_digest(self, round_number: int) -> str:
        return read_manifest(self.layout.stage(round_number, "label")).content

    def _trained_digest(self, round_number: int) -> str:
        if round_number == 0:
            return folder_digest(self.initial)
        return read_manifest(self.layout.stage(round_number, "train")).content

    def heldout(self, inputs: dict[str, str], *, policy: Path, folder: Path, round_number: int = 0) -> GenerateSpec:
        """Responses of `policy` to held-out prompts."""
        return GenerateSpec(
            folder=folder,
            round=round_number,
            seed=self.config.seed + 1,  # held-out samples share no randomness with training ones
            inputs={"prompts": inputs["prompts"], "policy": inputs["policy"]},
            settings=self._generation(self.config.evaluation.responses),
            policy=policy,
            prompts=self.layout.prompts / HELDOUT,
        )

    def against(self, name: str, inputs: dict[str, str]) -> GenerateSpec:
        """Responses of a policy named in evaluation.against, once a run."""
        return self.heldout(inputs, policy=self.named[name], folder=self.layout.stage(0, "against") / name)

    @property
    def labels_pairs(self) -> bool:
        """Whether the panel, people apart, labels held-out pairs.

        Not with a reference that moves: evaluations have log-probabilities under policies that rounds ended with.
        """
        annotators = self.config.panel.annotators.values()
        fixed = isinstance(self.config.objective.reference, str)
        return fixed and self.config.evaluation.pairs and any(each.kind != "human" for each in annotators)

    def pairs(self, inputs: dict[str, str]) -> LabelSpec | None:
        """The panel's votes on the initial policy's held-out responses, once a run; None where they are not wanted.

        People are not asked. inputs: digests of prompts, responses and the initial policy.
        """
        if not self.labels_pairs:
            return None
        panel = {name: each for name, each in self.config.panel.annotators.items() if each.kind != "human"}
        asked = {f"asked:{name}": inputs["initial"] for name in self.policies_asked}
        models = {f"annotator:{name}": self.model_inputs.get(f"annotator:{name}") for name in panel}
        given = {name: value for name, value in inputs.items() if name != "initial"} | asked
        spec = self.label(0, 0, 0, given)
        return spec.model_copy(
            update={
                "folder": self.layout.stage(0, "evaluate") / "pairs",
                "inputs": given | {name: value for name, value in models.items() if value is not None},
                "settings": spec.settings.model_copy(update={"annotators": panel}),
                "responses": self.layout.stage(0, "evaluate") / "responses",
                "prompts": self.layout.prompts / HELDOUT,
            }
        )

    def evaluate(
        self, round_number: int, base: int, inputs: dict[str, str]
    ) -> tuple[GenerateSpec, JudgeSpec, EvaluateSpec]:
        """Specs of the evaluation of `policy(round_number)` on held-out prompts, beside initial policy and base.

        inputs: digests of prompts, policy, initial, of rivals' responses (responses:NAME) and, after round 0 of a run
        with held-out pairs, of these (pairs) and of the evaluations whose log-probabilities are read again
        (evaluation:initial, evaluation:previous).
        """
        folder = self.layout.stage(round_number, "evaluate")
        evaluation = self.config.evaluation
        models = {name: value for name, value in self.model_inputs.items() if not name.startswith("annotator:")}
        policy = self.policy(round_number)
        responses = self.heldout(inputs, policy=policy, folder=folder / "responses", round_number=round_number)
        rivals = self.rivals(round_number, base)
        others = {name: self.layout.stage(number, "evaluate") / "responses" for name, number in rivals}
        others |= {name: self.layout.stage(0, "against") / name for name in evaluation.against}
        earlier = {"initial": 0, "previous": base} if round_number and self.labels_pairs else {}
        judged = {name: value for name, value in inputs.items() if not name.startswith(("pairs", "evaluation:"))}
        judge = JudgeSpec(
            folder=folder / "judgements",
            round=round_number,
            seed=self.config.seed,
            inputs=judged | models,
            settings=JudgingSettings(judges=evaluation.judges, rates=evaluation.rates),
            responses={"policy": responses.folder} | others,
            prompts=responses.prompts,
            answers=self.layout.answers,
        )
        metrics = EvaluateSpec(
            folder=folder,
            round=round_number,
            seed=self.config.seed,
            inputs=inputs,
            settings=MetricsSettings(
                bootstrap=evaluation.bootstrap,
                divergence_tokens=evaluation.batch_tokens,
                truth=evaluation.truth,
                margin=self._margin if earlier else None,
                dtype=self.config.training.dtype,
                device=self.config.training.device,
                trust_remote_code=self.config.policy.trust_remote_code,
            ),
            responses=responses.folder,
            judgements=judge.folder,
            policy=policy,
            initial=self.initial,
            prompts=responses.prompts,
            rivals=others,
            pairs=self.layout.stage(0, "evaluate") / "pairs" if self.labels_pairs else None,
            evaluations={name: self.layout.stage(number, "evaluate") for name, number in earlier.items()},
            harness=folder / "harness" if self.config.harness.tasks else None,
            mt_bench=folder / "grades" if self.config.mt_bench.questions else None,
        )
        return responses, judge, metrics

    @property
    def _margin(self) -> MarginSettings:
        objective = self.config.objective
        assert isinstance(objective.reference, str)  # labels_pairs
        return MarginSettings(scale=objective.margin_scale, reference=objective.reference)

    @staticmethod
    def rivals(round_number: int, base: int) -> list[tuple[str, int]]:
        """Whom a round's policy is compared with, and that policy's round. `previous`: what the round started from."""
        if round_number == 0:
            return []
        return [("initial", 0)] if base == 0 else [("initial", 0), ("previous", base)]

    def dry_run(self) -> list[Spec]:
        """Specs of the run's first round and of its evaluation, with inputs not yet known."""
        unknown = {
            "prompts": "?",
            "policy": "?",
            "initial": "?",
            "reference": "?",
            "responses": "?",
            "preferences": "?",
        }
        extra = self.extra(1, [0], {"prompts": "?", "policy": "?"})
        pairs = self.pairs({"prompts": "?", "responses": "?", "initial": "?"})
        return [
            self.prompts({"prompts": "?"}),
            self.select(1, {"prompts": "?"}),
            self.generate(1, 0, {"prompts": "?", "policy": "?"}),
            self.label(1, 0, 0, {"prompts": "?", "responses": "?"}),
            *([extra] if extra else []),
            self.train(1, 0, [0], {"policy": "?", "reference": "?", "preferences": "?"}),
            *([pairs] if pairs else []),
            *self.evaluate(1, 0, unknown),
        ]
