"""Build the demo's folder: prompts, a small policy that knows its world but has bad manners, and reward models.

    python -m tasks.demo.build FOLDER --seed 0

    FOLDER/prompts.jsonl heldout.jsonl     {prompt, answer, task}: training and held-out prompts
           sft.jsonl                       {messages}: 12,000 replies of mixed quality
           tokenizer/                      byte-level BPE of 600 tokens with the chat template
           policy/                         Llama, 0.68 million parameters: pretrained on clean answers, tuned on sft
           reward_models/{one,two,three}/  one layer of width 64, each fitted to 3,000 noisy pairs of its own
           judge/                          the held-out reward model: width 96, pairs of its own

The policy is trained in one thread of this process, the reward models in one thread of a second process. The same seed
gives the same bytes on the same machine.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.errors import UserError
from storage.files import publish_folder
from storage.stage import Progress, silent
from tasks.demo.corpus import (
    clean_rows,
    held_out_prompts,
    mixed_rows,
    noisy_pairs,
    read_rows,
    training_prompts,
    write_prompts,
    write_rows,
)
from tasks.demo.utility import utility
from tasks.processes import die_with_parent, end_group, start_group

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerBase

PAD, END = "<|pad|>", "<|end|>"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['user', 'assistant'] -%}"
    "{{ raise_exception('the demo knows the roles user and assistant only') }}"
    "{%- endif -%}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)
VOCABULARY = 600
POSITIONS = 1024  # the demo's prompts need 100; longer prompts fit too
BATCH = 24  # rows in one optimizer step
PRETRAINING_STEPS = 900
TUNING_STEPS = 800
REWARD_STEPS = 120
PRETRAINING_ROWS = 8_000
TUNING_ROWS = 12_000
PAIRS = 3_000  # of each reward model
#: name of the folder -> hidden size
REWARD_MODELS = {"reward_models/one": 64, "reward_models/two": 64, "reward_models/three": 64, "judge": 96}


def make_corpus(folder: Path, seed: int) -> None:
    """Write prompts.jsonl, heldout.jsonl (both the same for every seed) and sft.jsonl to `folder`."""
    write_prompts(folder / "prompts.jsonl", training_prompts())
    write_prompts(folder / "heldout.jsonl", held_out_prompts())
    write_rows(folder / "sft.jsonl", mixed_rows(training_prompts(), TUNING_ROWS, random.Random(f"{seed}:sft")))


def make_tokenizer(folder: Path) -> None:
    """Train the tokenizer on `folder`/sft.jsonl and write it to `folder`/tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END, "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [message["content"] for row in read_rows(folder / "sft.jsonl") for message in row["messages"]]
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    with publish_folder(folder / "tokenizer") as temporary:
        tokenizer.save_pretrained(temporary)


def llama(tokenizer: "PreTrainedTokenizerBase", *, hidden: int, layers: int, **more: Any) -> "LlamaConfig":
    """A small Llama configuration for `tokenizer`.

    initializer_range is 0.08 because pretraining then learns all held-out facts (greedy decoding). With the default of
    0.02 it learns 14 % of them.
    """
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=hidden * 11 // 4,
        vocab_size=len(tokenizer),
        max_position_embeddings=POSITIONS,
        initializer_range=0.08,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        **more,
    )


def train_policy(folder: Path, seed: int, progress: Progress = silent) -> None:
    """Pretrain on clean answers, tune on `folder`/sft.jsonl, and write `folder`/policy. Needs corpus and tokenizer."""
    from transformers import LlamaForCausalLM

    from tasks.modeling.load import load_tokenizer
    from tasks.training.supervised import SupervisedSettings, save_folder, seeded, train_supervised

    tokenizer = load_tokenizer(folder / "tokenizer")
    total = PRETRAINING_STEPS + TUNING_STEPS
    settings = partial(
        SupervisedSettings, learning_rate=3e-3, batch_size=BATCH, warmup_ratio=0.05, max_length=POSITIONS, seed=seed
    )
    with _reproducible():
        with seeded(seed):
            model = LlamaForCausalLM(llama(tokenizer, hidden=128, layers=3, tie_word_embeddings=True))
        clean = clean_rows(training_prompts(), PRETRAINING_ROWS, random.Random(f"{seed}:clean"))
        train_supervised(
            model,
            tokenizer,
            clean,
            settings(steps=PRETRAINING_STEPS),
            lambda done, _, unit: progress(done, total, unit),
        )
        train_supervised(
            model,
            tokenizer,
            read_rows(folder / "sft.jsonl"),
            settings(steps=TUNING_STEPS),
            lambda done, _, unit: progress(PRETRAINING_STEPS + done, total, unit),
        )
    save_folder(model, tokenizer, folder / "policy")


def train_reward_models(folder: Path, seed: int, progress: Progress = silent) -> None:
    """Fit the three reward models and the judge, each to its own pairs, and write them. Needs only the tokenizer."""
    from transformers import LlamaForSequenceClassification

    from tasks.modeling.load import load_tokenizer
    from tasks.training.reward_model import RewardTrainingSettings, train_reward_model
    from tasks.training.supervised import save_folder, seeded

    tokenizer = load_tokenizer(folder / "tokenizer")
    for number, (name, hidden) in enumerate(REWARD_MODELS.items()):
        pairs = [asdict(p) for p in noisy_pairs(training_prompts(), PAIRS, random.Random(f"{seed}:{name}"), utility)]
        settings = RewardTrainingSettings(
            learning_rate=3e-3, steps=REWARD_STEPS, max_length=POSITIONS, seed=1000 * (number + 1) + seed
        )
        with _reproducible():
            with seeded(settings.seed):
                model = LlamaForSequenceClassification(llama(tokenizer, hidden=hidden, layers=1, num_labels=1))
            train_reward_model(model, tokenizer, pairs, settings)
        save_folder(model, tokenizer, folder / name)
        progress(number + 1, len(REWARD_MODELS), "reward models")


def build_demo(folder: Path, seed: int = 0, report: Progress = silent) -> None:
    """Build the whole demo folder. It appears under its name only when it is complete.

    report: called with the policy's training steps. Raises UserError when `folder` exists and is not empty, and
    RuntimeError with the error output of the second process when the reward models fail.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            "the demo needs a new or empty folder, and this one is not empty",
            where=str(folder),
            remedy="name another folder, or delete this one",
        )
    with publish_folder(folder) as temporary:
        make_corpus(temporary, seed)
        make_tokenizer(temporary)
        with _reward_model_process(temporary, seed) as check:

            def progress(done: int, total: int, unit: str) -> None:
                check()
                report(done, total, unit)

            train_policy(temporary, seed, progress)


@contextmanager
def _reward_model_process(folder: Path, seed: int) -> Iterator[Callable[[], None]]:
    """Train the reward models in a second process; wait for it at the end.

    Yields a function that raises RuntimeError if the process failed.
    """
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "tasks.demo.build", str(folder.resolve()), "--seed", str(seed), "--reward-models"]
    with tempfile.TemporaryFile() as errors:
        child = start_group(command, cwd=root, stdout=errors, stderr=errors)

        def check() -> None:
            if child.poll():
                errors.seek(0)
                output = errors.read()[-4000:].decode(errors="replace")
                raise RuntimeError(f"training the reward models failed (exit status {child.returncode}):\n{output}")

        try:
            yield check
            child.wait()
            check()
        finally:
            end_group(child)


@contextmanager
def _reproducible() -> Iterator[None]:
    """Use one thread and deterministic kernels, because another order of summation gives other bytes."""
    import torch

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def main() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    parser = argparse.ArgumentParser(prog="python -m tasks.demo.build", description="Build the demo's folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reward-models", action="store_true", help=argparse.SUPPRESS)  # the second process
    arguments = parser.parse_args()
    if arguments.reward_models:
        die_with_parent()
        train_reward_models(arguments.folder, arguments.seed)
        return
    try:
        build_demo(arguments.folder, arguments.seed, _print_progress)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def _print_progress(done: int, total: int, unit: str) -> None:
    if done % 150 == 0 or done == total:
        print(f"policy: {done}/{total} {unit}", flush=True)


if __name__ == "__main__":
    main()
