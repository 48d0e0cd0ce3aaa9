"""Reward models: the value of the Bradley-Terry loss, learning an obvious preference, and the folder."""

import random
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from storage.errors import UserError
from tasks.modeling.load import load_tokenizer
from tasks.training.reward_model import (
    RewardTrainingSettings,
    encode_scored,
    fit_reward_model,
    main,
    read_pairs,
    scores,
    train_reward_model,
)
from tests.training.preference_rows import preference_row, write_preferences

WORDS = ["the", "sum", "of", "numbers", "is", "not", "known", "to", "a", "reader", "answer", "short", "long", "one"]


def kind_against_rude(count: int, seed: int) -> list[dict[str, str]]:
    """Pairs whose chosen reply contains 'kind' and whose rejected one contains 'rude'; the rest is random."""
    rng = random.Random(seed)

    def sentence(word: str) -> str:
        words = rng.choices(WORDS, k=rng.randint(2, 6))
        words.insert(rng.randrange(len(words) + 1), word)
        return " ".join(words)

    return [
        {"prompt": " ".join(rng.choices(WORDS, k=4)), "chosen": sentence("kind"), "rejected": sentence("rude")}
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def trained(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    folder = tmp_path_factory.mktemp("rewards") / "kind"
    settings = RewardTrainingSettings(steps=40, learning_rate=2e-3, batch_size=16)
    return folder, fit_reward_model(tiny_policy, kind_against_rude(200, 0), folder, settings, device="cpu")


def test_an_obvious_preference_is_learned_and_generalizes(trained: tuple[Path, list[float]]) -> None:
    folder, losses = trained
    assert sum(losses[-5:]) / 5 < 0.3 < losses[0]
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    fresh = kind_against_rude(100, 1)
    with torch.no_grad():
        chosen, rejected = (
            scores(model, [encode_scored(tokenizer, pair["prompt"], pair[side]) for pair in fresh])
            for side in ("chosen", "rejected")
        )
    assert (chosen > rejected).float().mean() >= 0.9


def test_folder_is_a_one_label_classifier_with_a_pad_token(trained: tuple[Path, list[float]]) -> None:
    folder, _ = trained
    assert {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= {
        path.name for path in folder.iterdir()
    }
    model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert model.config.num_labels == 1
    assert model.config.pad_token_id == AutoTokenizer.from_pretrained(folder).pad_token_id


def test_score_is_read_at_the_end_of_the_conversation_for_any_padding(trained: tuple[Path, list[float]]) -> None:
    folder, _ = trained
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [encode_scored(tokenizer, "one", reply) for reply in ("short", "a long answer to the reader is not known")]
    assert [tokenizer.decode(row[-2:]) for row in rows] == ["<|im_end|>\n"] * 2
    with torch.no_grad():
        together = scores(model, rows)
        hidden = [model.model(torch.tensor([row])).last_hidden_state[0, -1] for row in rows]
        alone = torch.stack([model.score(last)[0] for last in hidden])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_first_loss_is_the_bradley_terry_loss(trained: tuple[Path, list[float]]) -> None:
    folder, _ = trained
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pairs = kind_against_rude(6, 2)
    with torch.no_grad():
        margins = [
            scores(model, [encode_scored(tokenizer, pair["prompt"], pair["chosen"])])
            - scores(model, [encode_scored(tokenizer, pair["prompt"], pair["rejected"])])
            for pair in pairs
        ]
    settings = RewardTrainingSettings(steps=1, batch_size=6, microbatch_tokens=100)
    (loss,) = train_reward_model(model, tokenizer, pairs, settings)
    assert loss == pytest.approx(F.softplus(-torch.cat(margins)).mean().item(), rel=1e-4)


def test_unusable_pairs_models_and_tokenizers_are_refused(
    tiny_policy: Path, trained: tuple[Path, list[float]], tmp_path: Path
) -> None:
    folder, _ = trained
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    settings = RewardTrainingSettings(steps=1, max_length=12)
    with pytest.raises(UserError, match="nothing to train on"):
        train_reward_model(model, tokenizer, [], settings)
    with pytest.raises(UserError, match="pair 1"):
        train_reward_model(model, tokenizer, kind_against_rude(1, 0), settings)
    model.config.pad_token_id = None
    with pytest.raises(UserError, match="pad_token_id is None"):
        train_reward_model(model, tokenizer, kind_against_rude(1, 0), settings)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = str(tokenizer.chat_template).replace("<|im_end|>\n", "<|im_end|>")
    ambiguous = tmp_path / "ambiguous"
    ambiguous.mkdir()
    for path in tiny_policy.iterdir():
        (ambiguous / path.name).symlink_to(path)
    for name in ("tokenizer_config.json", "tokenizer.json", "chat_template.jinja"):
        (ambiguous / name).unlink(missing_ok=True)
    tokenizer.save_pretrained(ambiguous)
    with pytest.raises(UserError, match="end would look like padding"):
        fit_reward_model(ambiguous, kind_against_rude(1, 0), tmp_path / "out", settings)


def test_command_trains_on_preferences(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A negative target swaps the pair, and ties are skipped."""
    rows = [
        preference_row(str(i), [40], [[50 + i, 2], [60 + i, 2]], 0, 1, target)
        for i, target in enumerate((1.0, -2.0, 0.0))
    ]
    for i, row in enumerate(rows):
        for side in ("chosen", "rejected"):
            row[side] = [{"role": "assistant", "content": f"{side} {i}"}]
    path = write_preferences(tmp_path / "preferences.parquet", rows)
    pairs = read_pairs(path)
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [
        ("chosen 0", "rejected 0"),
        ("rejected 1", "chosen 1"),
    ]
    output = tmp_path / "fitted"
    monkeypatch.setattr("sys.argv", ["reward_model", str(tiny_policy), str(path), str(output), "--epochs", "2"])
    main()
    assert "2 steps" in capsys.readouterr().out
    assert AutoModelForSequenceClassification.from_pretrained(output).config.num_labels == 1
    monkeypatch.setattr("sys.argv", ["reward_model", str(tiny_policy), str(tmp_path / "none"), str(output)])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "preferences.parquet of a label or mix stage" in capsys.readouterr().err
