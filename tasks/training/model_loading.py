"""Load, check, shard and publish the models of a train stage."""

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
from tasks.training.packed_check import checked_packed_forward
from tasks.training.policy import add_adapters, checkpoint_activations, merge, publish_adapter, publish_policy
from tasks.training.settings import TrainSpec
from tasks.training.sharding import ShardedForward
from tasks.training.update_share import UpdateSummary

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel

POLICY = "policy"
ADAPTER = "adapter"


class ModelLoader:
    """Loads and publishes the policies of the train stage `spec`, whose data is `groups`."""

    def __init__(
        self, spec: TrainSpec, groups: Sequence[PromptGroup], accelerator: "Accelerator", ranks: Ranks
    ) -> None:
        self.spec = spec
        self.settings = spec.settings.optimization
        self.groups = groups
        self.accelerator = accelerator
        self.ranks = ranks
        self.checked: set[type[Any]] = set()  # model classes whose packed rows agree with plain rows

    def load(self, folder: Path) -> Forward:
        """The policy in `folder`, for inference. The first model of each class must pass the check of packed rows."""
        model = self._open(folder)
        if self.settings.batching == "plain" or type(model) in self.checked:
            return self._place(build_forward(model, self.settings))
        self.checked.add(type(model))
        return checked_packed_forward(
            model,
            self.groups,
            self.accelerator.autocast,
            tokens=self.settings.microbatch_tokens,
            place=self._place,
            ranks=self.ranks,
        )

    def load_trainable(self, policy: Forward | None) -> Forward:
        """The policy to train. On one rank it reuses the model of `policy`, if loaded; on several it is read again."""
        if self.ranks.size == 1:
            policy = policy or self.load(self.spec.policy.path)
            return build_forward(self._prepare(policy.model), self.settings)
        if not self.checked and self.settings.batching == "packed":
            self.load(self.spec.policy.path)
        gc.collect()  # models hold reference cycles
        return self._place(build_forward(self._prepare(self._open(self.spec.policy.path)), self.settings))

    def publish(self, model: "PreTrainedModel") -> tuple[list[Path], UpdateSummary]:
        """Write the trained policy; returns its folders and how much of the update is in it.

        With several ranks, their shards are gathered first.
        """
        if self.ranks.size == 1:
            return self._write(model)
        weights = gathered(trainable(model), self.ranks)

        def write() -> tuple[list[Path], UpdateSummary]:
            full = self._prepare(self._open(self.spec.policy.path))
            with torch.no_grad():
                for name, parameter in trainable(full).items():
                    parameter.copy_(weights[name])
            return self._write(full)

        return self.ranks.by_main(write)

    def _open(self, folder: Path) -> "PreTrainedModel":
        """The policy in float32 on the device; with several ranks on the CPU, until it is sharded.

        Raises UserError when the preferences have token ids outside its vocabulary.
        """
        trust = self.spec.settings.trust_remote_code
        check_policy_folder(folder, trust_remote_code=trust)
        device = str(self.accelerator.device) if self.ranks.size == 1 else "cpu"
        model = load_policy(folder, dtype="float32", device=device, trust_remote_code=trust)
        embedding: Any = model.get_input_embeddings()
        vocabulary = embedding.weight.shape[0]
        largest = max(int(ids.max(initial=0)) for group in self.groups for ids in (group.prompt_ids, *group.responses))
        if largest >= vocabulary:
            raise UserError(
                f"the preferences have token id {largest}, but the policy's vocabulary has {vocabulary} tokens",
                where=f"{self.spec.preferences.path} against {folder}",
                remedy="train the policy that sampled the responses, or one with the same tokenizer",
            )
        return model

    def _place(self, forward: Forward) -> Forward:
        return forward if self.ranks.size == 1 else ShardedForward(forward, self.accelerator.device)

    def _prepare(self, policy: "PreTrainedModel") -> "PreTrainedModel":
        """Set up gradient checkpointing and LoRA by the settings. The model stays in eval mode, without dropout."""
        if self.settings.gradient_checkpointing:
            checkpoint_activations(policy)
        if self.settings.lora is None:
            return policy
        # A PeftModel is called like the model it wraps.
        return add_adapters(policy, self.settings.lora, self.spec.seed)  # type: ignore[return-value]

    def _write(self, model: "PreTrainedModel") -> tuple[list[Path], UpdateSummary]:
        folder = self.spec.folder
        paths = [folder / POLICY]
        if self.settings.lora is not None:
            publish_adapter(model, folder / ADAPTER)  # type: ignore[arg-type]
            paths.append(folder / ADAPTER)
        whole = merge(model)
        start = self.spec.policy.path
        publish_policy(whole, start, folder / POLICY)
        return paths, UpdateSummary.of(start, whole.state_dict(), folder / POLICY)
