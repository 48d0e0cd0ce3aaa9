"""Load, check, shard and publish the models of a train stage."""

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from storage.errors import UserError
from tasks.modeling.load import check_policy_folder, load_policy
from tasks.modeling.unread import open_unread
from tasks.training.batching import Forward, PlainForward, build_forward, set_attention
from tasks.training.distributed import Ranks
from tasks.training.groups import PromptGroup
from tasks.training.optimizer import trainable
from tasks.training.packed_check import checked_packed_forward, compare, measure, refusing, select_groups
from tasks.training.policy import add_adapters, checkpoint_activations, merge, publish_adapter, publish_policy
from tasks.training.settings import TrainSpec
from tasks.training.shard_files import read_from_main, read_shards, readable_by_shard, write_shards
from tasks.training.sharding import ShardedForward, reshard, run_gathered, shard, whole
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
        if self.ranks.size > 1:
            self._check_sharded(folder)
            return self._load_sharded(folder)
        model = self._open(folder)
        if not self._to_check(model):
            return build_forward(model, self.settings)
        return checked_packed_forward(
            model, self.groups, self.accelerator.autocast, tokens=self.settings.microbatch_tokens
        )

    def load_trainable(self, policy: Forward | None) -> Forward:
        """The policy to train. On one rank it reuses the model of `policy`, if loaded; on several it is read again."""
        start = self.spec.policy.path
        if self.ranks.size == 1:
            policy = policy or self.load(start)
            return build_forward(self._prepare(policy.model), self.settings)
        self._check_sharded(start)
        return self._load_sharded(start, train=True)

    def publish(self, model: "PreTrainedModel") -> tuple[list[Path], UpdateSummary]:
        """Write the trained policy; returns its folders and how much of the update is in it.

        With several ranks, each writes its shard. Rank 0 merges adapters into a whole policy instead.
        """
        start, folder = self.spec.policy.path, self.spec.folder / POLICY
        if self.ranks.size == 1:
            return self._write(model)
        if self.settings.lora is None and readable_by_shard(model, start):
            write_shards(model, start, folder, self.ranks)
            return [folder], self.ranks.by_main(lambda: UpdateSummary.of(start, {}, folder))
        weights = _gathered(trainable(model), self.ranks)

        def write() -> tuple[list[Path], UpdateSummary]:
            full = self._prepare(self._load_whole(start))
            with torch.no_grad():
                for name, parameter in trainable(full).items():
                    parameter.copy_(weights[name])
            return self._write(full)

        return self.ranks.by_main(write)

    def _open(self, folder: Path) -> "PreTrainedModel":
        """The policy in float32 on the device; with several ranks on the CPU, and its weights are not read.

        Raises UserError when the preferences have token ids outside its vocabulary.
        """
        trust = self.spec.settings.trust_remote_code
        check_policy_folder(folder, trust_remote_code=trust)
        if self.ranks.size == 1:
            device = str(self.accelerator.device)
            model = load_policy(folder, dtype="float32", device=device, trust_remote_code=trust)
        else:
            model = open_unread(folder, trust_remote_code=trust)
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

    def _load_sharded(self, folder: Path, *, train: bool = False, dtype: str | None = None) -> Forward:
        """The forward of the policy in `folder`, of which this rank holds its shard; computes in the stage's dtype."""
        gc.collect()  # models hold reference cycles
        model = self._open(folder)
        if train:
            model = self._prepare(model)
        set_attention(model, self.settings)  # transformers does not recognise a model class that is sharded
        shard(model, self.accelerator.device, getattr(torch, dtype or self.settings.dtype))
        if readable_by_shard(model, folder):
            read_shards(model, folder)
        else:
            read_from_main(model, lambda: self._load_whole(folder), self.ranks)
        forward = run_gathered(model, build_forward, model, self.settings)
        reshard(model)  # its parameters are the shards again: the optimizer takes them
        return ShardedForward(forward)

    def _load_whole(self, folder: Path) -> "PreTrainedModel":
        trust = self.spec.settings.trust_remote_code
        return load_policy(folder, dtype="float32", device="cpu", trust_remote_code=trust)

    def _to_check(self, model: "PreTrainedModel") -> bool:
        """Whether packed rows of this class of models are still to be checked; at most once True."""
        if self.settings.batching == "plain" or type(model) in self.checked:
            return False
        self.checked.add(type(model))
        return True

    def _check_sharded(self, folder: Path) -> None:
        """Check packed rows of the policy in `folder`, sharded and in training's dtype, against float32 plain rows."""
        model = self._open(folder)
        if not self._to_check(model):
            return
        groups = select_groups(self.groups, model.config)
        with refusing(model):
            packed = self._load_sharded(folder, dtype="float32")
            exact = measure(_plain(packed), groups)
            if self.settings.dtype == "float32":
                compared = compare(exact, measure(packed, groups), ranks=self.ranks)
            else:
                del packed  # its shard is freed before the next is read
                packed = self._load_sharded(folder)
                compared = compare(exact, measure(packed, groups), measure(_plain(packed), groups), self.ranks)
        compared.require(model)

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
        merged = merge(model)
        start = self.spec.policy.path
        publish_policy(merged, start, folder / POLICY)
        return paths, UpdateSummary.of(start, merged.state_dict(), folder / POLICY)


def _plain(packed: Forward) -> Forward:
    """Plain rows by the same sharded model."""
    return ShardedForward(PlainForward(packed.model, 1))


def _gathered(tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> dict[str, torch.Tensor]:
    """Full tensors on the main rank's CPU; empty on the others. A collective."""
    result = {}
    for name, value in tensors.items():
        full = whole(value.detach())
        if ranks.main:
            result[name] = full.cpu().contiguous()
    return result
