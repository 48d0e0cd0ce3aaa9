"""The words of offline training: what `flows.train` adds to a command, and the names that TRL gives to its settings."""

from collections.abc import Sequence

from storage.errors import UserError

#: What an offline run has unless the command says otherwise.
DEFAULTS = {
    "name": "offline",
    "rounds": "1",
    "panel": "none",
    "prompts": "data",
    "evaluation": "plain",
    "objective": "dpo",
}
#: Groups that mean nothing to an offline run: its pairs come from a file.
ROUNDS_ONLY = ("drafts", "panel", "preferences", "mixing", "recipe", "cluster")
#: With a preset, which chooses these itself.
_OF_PRESETS = ("name", "evaluation", "objective")
#: Arguments of TRL's scripts and configs, and the words that mean the same here.
TRL = {
    "model_name_or_path": "policy=<folder or id>",
    "dataset_name": "data=<id> data.split=train",
    "dataset_train_split": "data.split=<split>",
    "dataset_test_split": "prompts.heldout=<share, or a file of prompts>",
    "output_dir": "name=<name>, the run is then in runs/<name>",
    "run_name": "name=<name>",
    "loss_type": "objective=<dpo|ipo|slic|...>",
    "beta": "objective.beta=<number>",
    "label_smoothing": "objective.label_smoothing=<share>",
    "learning_rate": "training.learning_rate=<rate>",
    "num_train_epochs": "training.epochs=<n>",
    "max_steps": "data.limit=<pairs> training.epochs=<n>",
    "per_device_train_batch_size": "training.prompts_per_step=<prompts>, of all devices together",
    "gradient_accumulation_steps": "training.prompts_per_step=<prompts>, training.microbatch_tokens=<tokens>",
    "lr_scheduler_type": "training.schedule=<linear|cosine|constant>",
    "warmup_ratio": "training.warmup_ratio=<share>",
    "warmup_steps": "training.warmup_ratio=<share of the steps>",
    "weight_decay": "training.weight_decay=<number>",
    "max_grad_norm": "training.max_grad_norm=<number>",
    "gradient_checkpointing": "training.gradient_checkpointing=true",
    "bf16": "training.dtype=bfloat16",
    "fp16": "training.dtype=bfloat16",
    "use_peft": "training=lora",
    "lora_r": "training=lora training.lora.rank=<rank>",
    "lora_alpha": "training=lora training.lora.alpha=<number>",
    "lora_target_modules": "training=lora training.lora.target_modules=[q_proj,v_proj]",
    "max_length": "data.too_long=drop (nothing is cut)",
    "max_prompt_length": "data.too_long=drop (nothing is cut)",
    "eval_strategy": "evaluation=<plain|judge|...>, once after training",
    "report_to": "tracker=<wandb|tensorboard|mlflow>",
    "push_to_hub": "push_to_hub=<repository>",
    "hub_model_id": "push_to_hub=<repository>",
}


def train_words(words: Sequence[str]) -> list[str]:
    """The words of an offline run: `words`, after the defaults that they leave open.

    Raises UserError for an argument of TRL's, with the word that means the same, and without a preference set.
    """
    for word in words:
        _refuse_trl(word)
    given = {word.lstrip("+~").partition("=")[0] for word in words}
    if "data" not in given and "data.path" not in given:
        raise UserError(
            "no preference set is named",
            where="command line",
            remedy="give data=<file, folder or hub id> (a hub id with data.split=train)",
        )
    left = [key for key in DEFAULTS if key not in given and not ("run" in given and key in _OF_PRESETS)]
    return [*(f"{key}={DEFAULTS[key]}" for key in left), *words]


def _refuse_trl(word: str) -> None:
    name = word.lstrip("-").partition("=")[0].split()[0] if word.strip("-") else ""
    name = name.replace("-", "_")
    if word.startswith("-") or (name in TRL and name != "push_to_hub"):
        means = TRL.get(name)
        raise UserError(
            f"{word} is {'an argument of TRL' if means else 'not a word of the form key=value'}",
            where="command line",
            remedy=f"write {means}" if means else "write key=value; `python -m flows.train --help` lists them",
        )
