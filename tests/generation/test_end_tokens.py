"""The token that ends a turn in the chat template ends a response, whatever the folder calls eos_token."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from storage.errors import UserError
from storage.schemas import RESPONSES, read_parquet
from tasks.evaluation.harness.worker import end_at_turns
from tasks.generation.engines import Request, Sample
from tasks.generation.engines.transformers import TransformersEngine, TransformersSettings
from tasks.generation.settings import SamplingSettings
from tasks.generation.stage import run
from tasks.modeling.conversation import check_turn_end, reply_text
from tasks.modeling.end_tokens import end_tokens
from tasks.modeling.load import load_tokenizer
from tests.generation.conftest import MakeSpec
from tests.modeling.families import CHATML, byte_level, families


@pytest.fixture
def base_eos(tiny_policy: Path, tmp_path: Path) -> Path:
    """The tiny policy as many base models come: ChatML ends turns with <|im_end|>, and eos_token is <|endoftext|>."""
    folder = Path(shutil.copytree(tiny_policy, tmp_path / "policy"))
    for name in ("tokenizer_config.json", "generation_config.json", "config.json"):
        values = json.loads((folder / name).read_text())
        changed = {"eos_token": "<|endoftext|>", "eos_token_id": 0}
        (folder / name).write_text(json.dumps(values | {key: changed[key] for key in changed if key in values}))
    return folder


def test_end_tokens_are_those_of_folder_and_template(tiny_policy: Path, base_eos: Path) -> None:
    tokenizer = load_tokenizer(base_eos)
    assert tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.convert_ids_to_tokens(end_tokens(base_eos)) == ["<|endoftext|>", "<|im_end|>"]
    assert tokenizer.convert_ids_to_tokens(end_tokens(tiny_policy)) == ["<|im_end|>"]


def test_a_response_ends_with_the_templates_token(tiny_policy: Path, base_eos: Path) -> None:
    """Both folders have the same weights and end turns alike, so they give the same responses."""
    sampling = SamplingSettings(responses=8, max_tokens=48, temperature=1.5)
    drawn = []
    for folder in (tiny_policy, base_eos):
        engine = TransformersEngine(TransformersSettings(dtype="float32"))
        engine.load(folder)
        drawn.append([sample for row in engine.sample([Request([5, 6, 7], 3)], sampling) for sample in row])
        engine.close()
    end = load_tokenizer(base_eos).get_vocab()["<|im_end|>"]
    ended = [sample for sample in drawn[1] if end in sample.token_ids]
    assert ended
    for sample in ended:
        assert (sample.token_ids.index(end), sample.finish_reason) == (len(sample.token_ids) - 1, "stop")
    plain = [sample for sample in drawn[0] if 0 not in sample.token_ids]
    assert [sample.token_ids for sample in plain] == [s.token_ids for s in drawn[1] if 0 not in s.token_ids]


class Scripted(TransformersEngine):
    """Samples the same response to everything."""

    def __init__(self, ids: list[int]) -> None:
        super().__init__(TransformersSettings(dtype="float32"))
        self.ids = ids

    def sample(self, requests: Sequence[Request], sampling: SamplingSettings) -> list[list[Sample]]:
        sample = Sample(self.ids, [-1.0] * len(self.ids), finish_reason="stop")
        return [[sample] * sampling.responses for _ in requests]


def test_the_end_token_is_recorded_and_not_shown(base_eos: Path, make_spec: MakeSpec) -> None:
    """Also when the tokenizer does not list it as special: then decoding keeps it."""
    tokens = json.loads((base_eos / "tokenizer.json").read_text())
    for token in tokens["added_tokens"]:
        token["special"] = token["content"] != "<|im_end|>"
    (base_eos / "tokenizer.json").write_text(json.dumps(tokens))
    tokenizer = load_tokenizer(base_eos)
    ids = tokenizer("kind", add_special_tokens=False)["input_ids"] + [2]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "kind<|im_end|>"
    spec = make_spec(policy=base_eos, verify_sequences=0)
    run(spec, engine=Scripted(ids))
    row = read_parquet(sorted(spec.folder.glob("responses-*.parquet")), RESPONSES).to_pylist()[0]
    assert (row["response_ids"], row["text"], row["finish_reason"]) == (ids, "kind", "stop")


def test_a_turn_that_ends_with_words_needs_a_stop_string() -> None:
    tokenizer = byte_level(["<|endoftext|>"], eos_token="<|endoftext|>")
    tokenizer.chat_template = CHATML
    with pytest.raises(UserError, match=r"ends a turn with '<\|im_end\|>', which is no token") as refusal:
        check_turn_end(tokenizer, stop=[])
    assert "sampling.stop=['<|im_end|>']" in refusal.value.remedy
    check_turn_end(tokenizer, stop=["<|im_end|>"])
    for family in families().values():
        check_turn_end(family.tokenizer(), stop=[])


def test_the_marks_of_a_thought_stay_in_the_text() -> None:
    """They are special tokens here, which decoding leaves out. Annotators see what follows them."""
    tokenizer = families()["thinking"].tokenizer()
    text = "<think>\nI am not sure .\n</think>\n\nThe sum is 7 ."
    ids = tokenizer(f"{text}<|im_end|>", add_special_tokens=False)["input_ids"]
    assert "<think>" not in tokenizer.decode(ids, skip_special_tokens=True)
    assert reply_text(tokenizer, ids, {ids[-1]}) == reply_text(tokenizer, ids, set()) == text


def test_lm_eval_ends_replies_at_the_same_token(base_eos: Path) -> None:
    class Model:
        """What the harness uses of an lm-eval model."""

        tokenizer = load_tokenizer(base_eos)
        eot_token_id = 0

    model = Model()
    end_at_turns(model)
    assert model.tokenizer.convert_ids_to_tokens(model.eot_token_id) == "<|im_end|>"
