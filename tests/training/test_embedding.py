"""Prompt embeddings are means over a text's own tokens, regardless of its batch."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from storage.errors import UserError
from tasks.modeling.load import load_policy, load_tokenizer
from tasks.training.embedding import embed, embed_by_policy, find_embedder
from tests.skips import NO_MINILM

TEXTS = ["What is the sum of 1 and 2?", "A kind reply.", "the reader " * 30]
MINILM = os.environ.get("IREPO_MINILM", "")


@pytest.fixture
def encoder(tmp_path: Path, tiny_policy: Path) -> Path:
    """A random BERT with the tiny policy's tokenizer that truncates texts to 20 tokens."""
    load_tokenizer(tiny_policy).save_pretrained(tmp_path / "encoder")
    config = BertConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(tmp_path / "encoder")
    (tmp_path / "encoder" / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20}))
    return tmp_path / "encoder"


def test_batched_embeddings_equal_single_texts(encoder: Path) -> None:
    vectors = embed(find_embedder(str(encoder)), TEXTS, "cpu")
    model, tokenizer = AutoModel.from_pretrained(encoder).eval(), AutoTokenizer.from_pretrained(encoder)
    for text, vector in zip(TEXTS, vectors, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"][:20]])
        with torch.no_grad():
            mean = model(input_ids=ids).last_hidden_state[0].mean(0).double().numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)


def test_policy_embeddings_are_means_of_hidden_states(tiny_policy: Path) -> None:
    policy, tokenizer = load_policy(tiny_policy, dtype="float32", device="cpu"), load_tokenizer(tiny_policy)
    vectors = embed_by_policy(policy, tokenizer, TEXTS)
    with torch.no_grad():
        ids = torch.tensor([tokenizer(TEXTS[1])["input_ids"]])
        mean = policy.base_model(ids).last_hidden_state[0].mean(0).double().numpy()
    np.testing.assert_allclose(vectors[1], mean / np.linalg.norm(mean), atol=1e-5)


def test_invalid_encoders_are_refused(tmp_path: Path, encoder: Path) -> None:
    with pytest.raises(UserError, match="not a model folder"):
        find_embedder(str(tmp_path))
    (encoder / "1_Pooling").mkdir()
    (encoder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    with pytest.raises(UserError, match="does not use mean pooling"):
        find_embedder(str(encoder))


@pytest.mark.skipif(not MINILM, reason=NO_MINILM)
def test_minilm_ranks_similar_texts() -> None:
    texts = ["A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby."]
    vectors = embed(find_embedder(MINILM), texts, "cpu")
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] == pytest.approx(0.7553, abs=1e-3)
    assert vectors[0] @ vectors[2] < 0.1
