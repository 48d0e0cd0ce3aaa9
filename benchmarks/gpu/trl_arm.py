"""The same pairs by TRL's DPOTrainer, where it is installed."""

import itertools
import tempfile
from collections.abc import Sequence

from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.ours import pace
from tasks.training.groups import PromptGroup

BATCH = 4  # pairs in a forward
STEPS = 3  # the first does not count


def trl_step(bench: Bench, name: str, groups: Sequence[PromptGroup]) -> Row:
    """One optimizer step over the pairs of `groups`: cached reference, batches by length, bfloat16, fused AdamW."""
    import time

    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from trl import DPOConfig, DPOTrainer

    class Prepared(DPOTrainer):
        def _prepare_dataset(self, dataset: Dataset, *rest: object) -> Dataset:
            return dataset  # it has token ids already

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: object
        ) -> None:
            bench.wait()
            times.append(time.perf_counter())

    rows = [
        {
            "prompt_ids": group.prompt_ids.tolist(),
            "chosen_ids": group.responses[pair.chosen].tolist(),
            "rejected_ids": group.responses[pair.rejected].tolist(),
            "length": len(group.prompt_ids) + max(len(group.responses[i]) for i in (pair.chosen, pair.rejected)),
        }
        for group in groups
        for pair in group.pairs
    ]
    with tempfile.TemporaryDirectory(prefix="irepo-trl-") as folder, bench.memory() as gib:
        batch = min(BATCH, len(rows))
        arguments = DPOConfig(
            output_dir=folder,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=max(1, len(rows) // batch),
            max_steps=STEPS,
            learning_rate=5e-7,
            beta=0.1,
            loss_type=["sigmoid"],
            max_length=None,
            bf16=True,
            use_cpu=bench.device == "cpu",
            gradient_checkpointing=False,
            precompute_ref_log_probs=True,
            train_sampling_strategy="group_by_length",
            remove_unused_columns=False,
            optim="adamw_torch_fused",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1}, "<pad>")),
            pad_token="<pad>",
            eos_token="<end>",
        )
        Prepared(
            model=bench.model(name),
            ref_model=None,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Clock()],
        ).train()
    seconds = sorted(end - start for start, end in itertools.pairwise(times))
    return pace(bench, name, groups, seconds[len(seconds) // 2], gib)
