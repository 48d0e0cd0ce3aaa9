"""preferences.parquet as it is: `datasets` loads it and TRL's DPOTrainer trains on it."""

import math
from pathlib import Path

import datasets
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from storage.schemas import PREFERENCES
from tasks.labeling.stage import run
from tests.panel.conftest import World


@pytest.mark.filterwarnings("ignore")
def test_dpo_trainer_takes_a_step(world: World, tiny_policy: Path, tmp_path: Path) -> None:
    from trl import DPOConfig, DPOTrainer

    spec = world.spec(
        {"p": ["a kind reply", "a rude one"], "q": ["short", "a long reply"]},
        {"one": {"kind": "function", "function": "voters:length"}},
    )
    run(spec)
    loaded = datasets.load_dataset(
        "parquet", data_files=str(spec.folder / "preferences.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.column_names == PREFERENCES.names
    assert loaded[0]["chosen"] == [{"role": "assistant", "content": "a kind reply"}]
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_policy),
        args=DPOConfig(
            output_dir=str(tmp_path / "dpo"),
            max_steps=1,
            per_device_train_batch_size=2,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        ),
        train_dataset=loaded,
        processing_class=AutoTokenizer.from_pretrained(tiny_policy),
    )
    result = trainer.train()
    assert result.global_step == 1
    assert math.isclose(result.training_loss, math.log(2), rel_tol=1e-4)  # policy = reference at the first step
    assert isinstance(trainer.train_dataset, datasets.Dataset)
    assert set(PREFERENCES.names) <= set(trainer.train_dataset.column_names)
    assert trainer.train_dataset["target"] == loaded["target"]
