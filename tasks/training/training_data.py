"""What the objective needs, brought together before training: groups, labels, log-probabilities, vectors, extras.

What cannot be had is refused as soon as it can be known: without a model where that is possible.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from storage.errors import UserError
from storage.stage import Progress
from tasks.modeling.load import encode_chat, load_tokenizer
from tasks.training.batching import Forward
from tasks.training.distributed import ALONE, Ranks
from tasks.training.embedding import POLICY, embed, embed_by_policy, find_embedder
from tasks.training.examples import Example
from tasks.training.extras import with_extras
from tasks.training.groups import EXTRA, Preferences, PromptGroup, read_preferences
from tasks.training.objectives.bmc import differing
from tasks.training.objectives.needs import Needs
from tasks.training.reference import PREVIOUS_FILE, REFERENCE_FILE, Logprobs, reference_logprobs
from tasks.training.settings import TrainSpec
from tasks.training.supervision import Labelled, supervise

QUALITY_FILE = "quality.parquet"  # log-probabilities under the policy that training starts from, given an instruction

Load = Callable[[Path], Forward]
Autocast = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Provision:
    """The data of one train stage, by the needs of its objective."""

    spec: TrainSpec
    preferences: Preferences
    labelled: Labelled
    embedder: Path | None
    ranks: Ranks = ALONE

    @classmethod
    def of(cls, spec: TrainSpec, ranks: Ranks = ALONE) -> "Provision":
        """Read what needs no model. Raises UserError for everything that the objective needs and cannot have."""
        objective = spec.settings.objective
        needs = objective.needs()
        if needs.mixture is not None and spec.mixture != needs.mixture:
            sampled = "the policy" if spec.mixture is None else f"a mixture with share {spec.mixture}"
            raise UserError(
                f"objective {objective.name} is for responses of a mixture that has the share {needs.mixture} of the "
                f"reference; these are of {sampled}",
                where="spec: mixture",
                remedy="sample from that mixture, or choose objective=online-ipo: it is for the policy's own responses",
            )
        embedder = needs.embedder if needs.embedder != POLICY else None
        found = find_embedder(embedder) if embedder else None
        messages = needs.embedder is not None or needs.quality_instruction is not None
        preferences = read_preferences(spec.preferences.path, ties=needs.ties, messages=messages)
        labelled = supervise(spec, preferences.groups)
        if needs.extra:
            groups = [item.group for item in labelled.items]
            extended = with_extras(
                groups, spec.extra.path if spec.extra else None, name=objective.name, kind=needs.extra
            )
            items = [replace(item, group=group) for item, group in zip(labelled.items, extended, strict=True)]
            labelled = replace(labelled, items=items)
        return cls(spec, preferences, labelled, found, ranks)

    @property
    def needs(self) -> Needs:
        return self.spec.settings.objective.needs()

    @property
    def groups(self) -> list[PromptGroup]:
        return [item.group for item in self.labelled.items]

    @property
    def annotators(self) -> tuple[str, ...]:
        return self.labelled.annotators

    def rows(self) -> dict[str, int]:
        """Counts for the manifest: what is trained on, and the pairs that were left out."""
        groups = self.groups
        counts = {
            "prompts": len(groups),
            "responses": sum(len(group.responses) - group.indices.count(EXTRA) for group in groups),
            "pairs": sum(len(group.pairs) for group in groups),
            "identical_pairs": self.preferences.identical_pairs,
        }
        left_out = {"tied_pairs": self.preferences.tied_pairs, "unknown_pairs": self.labelled.unknown_pairs}
        return counts | {name: count for name, count in left_out.items() if count}

    def files(self) -> list[Path]:
        """The files that `examples` has published."""
        names = [REFERENCE_FILE]
        names += [PREVIOUS_FILE] if self.needs.previous and not self.spec.starts_at_reference else []
        names += [QUALITY_FILE] if self.needs.quality_instruction is not None else []
        return [self.spec.folder / name for name in names]

    def examples(
        self, policy: Forward | None, load: Load, autocast: Autocast, progress: Progress
    ) -> tuple[list[Example], Forward | None]:
        """The groups with log-probabilities and vectors; and the policy, where it had to be loaded for them.

        `policy` is what training starts from, loaded already when it is the reference too.
        """
        spec, needs, groups = self.spec, self.needs, self.groups
        ranks = self.ranks
        reference = reference_logprobs(
            spec, groups, lambda: policy or load(spec.reference.path), autocast, progress, ranks=ranks
        )
        items = list(self.labelled.items)
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
            items = [
                replace(item, responses=item.responses | {"quality": given.sums - plain.sums})
                for item, given, plain in zip(items, instructed, previous, strict=True)
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
            for number, item in enumerate(items)
        ], policy

    def _instructed(self, instruction: str) -> list[PromptGroup]:
        """The groups with `instruction` before the first message of their prompts."""
        tokenizer = load_tokenizer(self.spec.policy.path, trust_remote_code=self.spec.settings.trust_remote_code)
        result = []
        for group in self.groups:
            first, *rest = group.messages
            messages = [first | {"content": f"{instruction}\n\n{first['content']}"}, *rest]
            result.append(replace(group, prompt_ids=np.array(encode_chat(tokenizer, messages), dtype=np.int32)))
        return result

    def _vectors(self, policy: Forward | None) -> np.ndarray | None:
        """A unit vector for the prompt of each group, without its chat template; None where none is needed."""
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
