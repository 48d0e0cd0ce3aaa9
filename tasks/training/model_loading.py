"""The models of a train stage: read, tested, placed on one process or in shards on several, and published."""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from storage.errors import UserError
from tasks.modeling.load import check_policy_folder, load_policy
from tasks.training.batching import Forward, build_forward
from tasks.training.checkpoints import gathered
from tasks.training.distributed import Ranks
from tasks.training.groups import PromptGroup
from tasks.training.optimizer import trainable
from tasks.training.policy import add_adapters, checkpoint_activations, merge, publish_adapter, publish_policy
from tasks.training.self_test import packed_forward
from tasks.training.settings import TrainSpec
from tasks.training.sharding import ShardedForward

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel

POLICY = "policy"
ADAPTER = "adapter"


class Policies:
    """What the stage of `spec` asks and trains, for data of `groups`."""

    def __init__(
        self, spec: TrainSpec, groups: Sequence[PromptGroup], accelerator: "Accelerator", ranks: Ranks
    ) -> None:
        self.spec = spec
        self.settings = spec.settings.optimization
        self.groups = groups
        self.accelerator = accelerator
        self.ranks = ranks
        self.tested: set[type] = set()  # kinds of models whose packed rows were found to be right

    def load(self, folder: Path) -> Forward:
        """The policy in `folder`, to be asked; the first one of its kind must pass the self-test of packed rows."""
        model = self._open(folder)
        kind = type(model)
        if self.settings.batching == "plain" or kind in self.tested:
            return self._placed(build_forward(model, self.settings))
        self.tested.add(kind)
        return packed_forward(
            model,
            self.groups,
            self.accelerator.autocast,
            tokens=self.settings.microbatch_tokens,
            place=self._placed,
            ranks=self.ranks,
        )

    def to_train(self, policy: Forward | None) -> Forward:
        """What is trained: the model of `policy`, where it was asked already and is not in shards; else read now."""
        if self.ranks.size == 1:
            policy = policy or self.load(self.spec.policy.path)
            return build_forward(self._prepare(policy.model), self.settings)
        if not self.tested and self.settings.batching == "packed":
            self.load(self.spec.policy.path)
        gc.collect()  # models hold reference cycles
        return self._placed(build_forward(self._prepare(self._open(self.spec.policy.path)), self.settings))

    def publish(self, model: "PreTrainedModel") -> list[Path]:
        """Write what was trained; gathered from all ranks, where there are several, into a policy like it."""
        if self.ranks.size == 1:
            return self._write(model)
        weights = gathered(trainable(model), self.ranks)

        def write() -> list[Path]:
            like = self._prepare(self._open(self.spec.policy.path))
            with torch.no_grad():
                for name, parameter in trainable(like).items():
                    parameter.copy_(weights[name])
            return self._write(like)

        return self.ranks.by_main(write)

    def _open(self, folder: Path) -> "PreTrainedModel":
        """The policy in float32, on the device, checked against the preferences' tokens.

        What several ranks will share stays on the CPU until it is in shards.
        """
        trust = self.spec.settings.trust_remote_code
        check_policy_folder(folder, trust_remote_code=trust)
        device = str(self.accelerator.device) if self.ranks.size == 1 else "cpu"
        model = load_policy(folder, dtype="float32", device=device, trust_remote_code=trust)
        embedding: Any = model.get_input_embeddings()
        size = embedding.weight.shape[0]
        largest = max(int(ids.max(initial=0)) for group in self.groups for ids in (group.prompt_ids, *group.responses))
        if largest >= size:
            raise UserError(
                f"the preferences have token id {largest}, but the policy's vocabulary has {size}",
                where=f"{self.spec.preferences.path} against {folder}",
                remedy="train the policy that sampled the responses, or one with the same tokenizer",
            )
        return model

    def _placed(self, forward: Forward) -> Forward:
        return forward if self.ranks.size == 1 else ShardedForward(forward, self.accelerator.device)

    def _prepare(self, policy: "PreTrainedModel") -> "PreTrainedModel":
        """Freeze, adapt and set up recomputation as the settings say. The model stays in eval mode: no dropout."""
        if self.settings.gradient_checkpointing:
            checkpoint_activations(policy)
        if self.settings.lora is None:
            return policy
        # An adapted model forwards like the model it wraps.
        return add_adapters(policy, self.settings.lora, self.spec.seed)  # type: ignore[return-value]

    def _write(self, model: "PreTrainedModel") -> list[Path]:
        folder = self.spec.folder
        paths = [folder / POLICY]
        if self.settings.lora is not None:
            publish_adapter(model, folder / ADAPTER)  # type: ignore[arg-type]
            paths.append(folder / ADAPTER)
        publish_policy(merge(model), self.spec.policy.path, folder / POLICY)
        return paths
