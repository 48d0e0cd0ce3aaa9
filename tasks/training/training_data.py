"""The data of a train stage: groups, labels, log-probabilities, prompt embeddings and extra responses.

Missing data is reported as early as possible: before a model is loaded, if that can be checked without one.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from storage.errors import UserError
from storage.stage import Progress
from tasks.modeling.conversation import encode_chat
from tasks.modeling.end_tokens import end_tokens, last_token
from tasks.modeling.load import free_unused, load_tokenizer
from tasks.training.batching import Forward
from tasks.training.degrees import add_copies, label_tokens
from tasks.training.distributed import ALONE, Ranks
from tasks.training.embedding import POLICY, embed, embed_by_policy, find_embedder
from tasks.training.examples import Example
from tasks.training.extras import add_extra_responses
from tasks.training.groups import PreferenceData, PromptGroup, read_preferences
from tasks.training.label_columns import LabeledData, LabeledGroup, add_label_columns
from tasks.training.objectives.bmc import differing
from tasks.training.objectives.needs import Degrees, Needs
from tasks.training.reference import PREVIOUS_FILE, REFERENCE_FILE, Logprobs, reference_logprobs
from tasks.training.settings import TrainSpec

QUALITY_FILE = "quality.parquet"  # as PREVIOUS_FILE, with the objective's instruction in the prompt

Load = Callable[[Path], Forward]
Autocast = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class TrainingData:
    """The data that the objective of one train stage needs."""

    spec: TrainSpec
    preferences: PreferenceData
    labeled: LabeledData
    embedder: Path | None  # folder of a sentence encoder
    ranks: Ranks = ALONE

    @classmethod
    def of(cls, spec: TrainSpec, ranks: Ranks = ALONE) -> "TrainingData":
        """Read everything that needs no model. Raises UserError when something that the objective needs is missing."""
        objective = spec.settings.objective
        needs = objective.needs()
        if needs.mixture is not None and spec.mixture != needs.mixture:
            source = "the policy" if spec.mixture is None else f"a mixture with share {spec.mixture}"
            raise UserError(
                f"objective {objective.name} needs responses from a mixture with share {needs.mixture} of the "
                f"reference; these are from {source}",
                where="spec: mixture",
                remedy="sample from that mixture, or choose objective=online-ipo, which trains on the policy's own "
                "responses",
            )
        embedder = needs.embedder if needs.embedder != POLICY else None
        folder = find_embedder(embedder) if embedder else None
        messages = needs.embedder is not None or needs.quality_instruction is not None
        preferences = read_preferences(spec.preferences.path, ties=needs.ties, messages=messages)
        labeled = add_label_columns(spec, preferences.groups)
        if needs.extra:
            extended = add_extra_responses(
                [item.group for item in labeled.groups],
                spec.extra.path if spec.extra else None,
                objective=objective.name,
                kind=needs.extra,
            )
            groups = [replace(item, group=group) for item, group in zip(labeled.groups, extended, strict=True)]
            labeled = replace(labeled, groups=groups)
        if needs.degrees is not None:
            labeled = replace(labeled, groups=_with_copies(spec, needs.degrees, labeled.groups))
        return cls(spec, preferences, labeled, folder, ranks)

    @property
    def needs(self) -> Needs:
        return self.spec.settings.objective.needs()

    @property
    def groups(self) -> list[PromptGroup]:
        return [item.group for item in self.labeled.groups]

    @property
    def annotators(self) -> tuple[str, ...]:
        return self.labeled.annotators

    def rows(self) -> dict[str, int]:
        """Row counts for the manifest: the training data, pairs whose target is 0, and the skipped pairs."""
        groups = self.groups
        counts = {
            "prompts": len(groups),
            "responses": sum(index >= 0 for group in groups for index in group.indices),
            "pairs": sum(len(group.pairs) for group in groups),
            "identical_pairs": self.preferences.identical_pairs,
        }
        some = {
            "zero_targets": sum(pair.label == 0 for group in groups for pair in group.pairs),
            "tied_pairs": self.preferences.tied_pairs,
            "unknown_pairs": self.labeled.unknown_pairs,
        }
        return counts | {name: count for name, count in some.items() if count}

    def files(self) -> list[Path]:
        """The files that `examples` publishes."""
        names = [REFERENCE_FILE]
        names += [PREVIOUS_FILE] if self.needs.previous and not self.spec.starts_at_reference else []
        names += [QUALITY_FILE] if self.needs.quality_instruction is not None else []
        return [self.spec.folder / name for name in names]

    def examples(
        self, policy: Forward | None, load: Load, autocast: Autocast, progress: Progress
    ) -> tuple[list[Example], Forward | None]:
        """Examples with log-probabilities and embeddings; and the policy, if it is loaded.

        `policy`: the policy that training starts from, if it is loaded already because it is the reference too.
        """
        spec, needs, groups = self.spec, self.needs, self.groups
        ranks = self.ranks
        reference = reference_logprobs(
            spec, groups, lambda: policy or load(spec.reference.path), autocast, progress, ranks=ranks
        )
        if policy is None:
            free_unused()  # the reference, before the next policy is loaded
        labeled = list(self.labeled.groups)
        if needs.embedder == POLICY or needs.previous or needs.quality_instruction is not None:
            policy = policy or load(spec.policy.path)
        previous: Sequence[Logprobs | None] = [None] * len(groups)
        if needs.previous and spec.starts_at_reference:
            previous = reference
        elif needs.previous:
            previous = reference_logprobs(
                spec,
                groups,
                lambda: policy or load(spec.policy.path),
                autocast,
                progress,
                file=PREVIOUS_FILE,
                ranks=ranks,
            )
        if needs.quality_instruction is not None:
            instructed = reference_logprobs(
                spec,
                self._instructed(needs.quality_instruction),
                lambda: policy or load(spec.policy.path),
                autocast,
                progress,
                file=QUALITY_FILE,
                ranks=ranks,
            )
            labeled = [
                replace(item, responses=item.responses | {"quality": given.sums - plain.sums})
                for item, given, plain in zip(labeled, instructed, previous, strict=True)
                if plain is not None
            ]
        vectors = self._vectors(policy)
        return [
            Example(
                item,
                reference[number],
                previous[number],
                vectors[number] if vectors is not None else None,
                self._differing(item.group) if needs.alignment else None,
            )
            for number, item in enumerate(labeled)
        ], policy

    def _instructed(self, instruction: str) -> list[PromptGroup]:
        """The groups with `instruction` prepended to the first message of the prompt."""
        tokenizer = load_tokenizer(self.spec.policy.path, trust_remote_code=self.spec.settings.trust_remote_code)
        instructed = []
        for group in self.groups:
            first, *rest = group.messages
            messages = [first | {"content": f"{instruction}\n\n{first['content']}"}, *rest]
            instructed.append(replace(group, prompt_ids=np.array(encode_chat(tokenizer, messages), dtype=np.int32)))
        return instructed

    def _vectors(self, policy: Forward | None) -> np.ndarray | None:
        """Unit vectors of the prompts, float64 [G, E], without chat template; None if the objective needs none."""
        if self.needs.embedder is None:
            return None
        texts = ["\n".join(message["content"] for message in group.messages) for group in self.groups]
        if self.embedder is not None:
            return embed(self.embedder, texts, str(policy.model.device) if policy else "cpu")
        assert policy is not None
        tokenizer = load_tokenizer(self.spec.policy.path, trust_remote_code=self.spec.settings.trust_remote_code)
        return embed_by_policy(policy.model, tokenizer, texts)

    @staticmethod
    def _differing(group: PromptGroup) -> list[tuple[list[int], list[int]]]:
        return [differing(group.responses[pair.chosen], group.responses[pair.rejected]) for pair in group.pairs]


def _with_copies(spec: TrainSpec, degrees: Degrees, labeled: Sequence[LabeledGroup]) -> list[LabeledGroup]:
    """The groups with a copy of each response (`tasks.training.degrees`)."""
    trust = spec.settings.trust_remote_code
    tokenizer = load_tokenizer(spec.policy.path, trust_remote_code=trust)
    extended = add_copies(
        [item.group for item in labeled],
        tokenizer,
        ends=end_tokens(spec.policy.path, trust_remote_code=trust),
        end=last_token(tokenizer),
        labels=label_tokens(tokenizer, degrees.labels),
        stop_words=degrees.stop_words,
        seed=(spec.seed, spec.round),
    )
    return [replace(item, group=group) for item, group in zip(labeled, extended, strict=True)]
