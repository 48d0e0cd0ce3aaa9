"""Reference log-probabilities: computed once by the training forward, and checked for completeness."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from storage.errors import UserError
from storage.schemas import REFERENCE, read_parquet
from tasks.modeling.load import load_policy
from tasks.modeling.logprobs import TokenSequence, sequence_logprobs, token_logprobs
from tasks.training.batching import PackedForward
from tasks.training.groups import PromptGroup, read_preferences
from tasks.training.reference import REFERENCE_FILE, compute, look_up, reference_logprobs
from tests.training.conftest import MakeSpec


@pytest.fixture
def groups(make_spec: MakeSpec) -> list[PromptGroup]:
    return read_preferences(make_spec().preferences.path).groups


@pytest.fixture
def rows(tiny_policy: Path, groups: list[PromptGroup]) -> pa.Table:
    model = load_policy(tiny_policy, dtype="float32", device="cpu")
    return compute(PackedForward(model, 200), groups, nullcontext)


def test_values_equal_single_sequences(tiny_policy: Path, groups: list[PromptGroup], rows: pa.Table) -> None:
    """Against single sequences without padding."""
    model = load_policy(tiny_policy, dtype="float32", device="cpu")
    for group, values in zip(groups, look_up(rows, groups, Path("r")), strict=True):
        for response, value in zip(group.responses, values.sums, strict=True):
            alone = sequence_logprobs(model, [TokenSequence(group.prompt_ids, response)], tokens=1)
            assert value == pytest.approx(alone[0], abs=1e-4)


def test_file_is_reused_and_computed_again_when_damaged(make_spec: MakeSpec, groups: list[PromptGroup]) -> None:
    spec = make_spec()
    loads: list[int] = []

    def load() -> PackedForward:
        loads.append(1)
        return PackedForward(load_policy(spec.reference.path, dtype="float32", device="cpu"), 4096)

    first = reference_logprobs(spec, groups, load, nullcontext)
    again = reference_logprobs(spec, groups, load, nullcontext)
    assert len(loads) == 1
    assert all(np.array_equal(a.sums, b.sums) for a, b in zip(first, again, strict=True))
    path = spec.folder / REFERENCE_FILE
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    reference_logprobs(spec, groups, load, nullcontext)
    assert len(loads) == 2
    assert path.read_bytes() == content
    assert read_parquet(path, REFERENCE).num_rows == 36


def test_error_names_a_missing_row(groups: list[PromptGroup], rows: pa.Table) -> None:
    last = groups[-1]
    name = f"prompt {last.prompt_id} .round 1. response {last.indices[-1]} missing"
    with pytest.raises(UserError, match=name):
        look_up(rows.slice(0, rows.num_rows - 1), groups, Path("r"))


def test_error_names_a_duplicate_row(groups: list[PromptGroup], rows: pa.Table) -> None:
    with pytest.raises(UserError, match=f"prompt {groups[0].prompt_id} .* response {groups[0].indices[0]} twice"):
        look_up(pa.concat_tables([rows, rows.slice(0, 1)]), groups, Path("r"))


def test_error_names_a_value_that_is_not_finite(groups: list[PromptGroup], rows: pa.Table) -> None:
    values = rows["logprob"].to_pylist()
    values[4] = -np.inf
    broken = rows.set_column(3, REFERENCE.field("logprob"), pa.array(values))
    with pytest.raises(UserError, match="with the value -inf"):
        look_up(broken, groups, Path("r"))


def test_single_tokens_are_published_if_needed(
    make_spec: MakeSpec, tiny_policy: Path, groups: list[PromptGroup]
) -> None:
    """Against single sequences without padding. Tokens add up to the sums and are in the same file."""
    spec = make_spec(objective={"name": "bmc"})
    model = load_policy(tiny_policy, dtype="float32", device="cpu")
    first = reference_logprobs(spec, groups, lambda: PackedForward(model, 4096), nullcontext)
    for group, values in zip(groups, first, strict=True):
        assert values.tokens is not None
        for response, total, tokens in zip(group.responses, values.sums, values.tokens, strict=True):
            with torch.no_grad():
                (alone,) = token_logprobs(model, [TokenSequence(group.prompt_ids, response)])
            np.testing.assert_allclose(tokens, alone.numpy(), atol=1e-5)
            assert tokens.sum() == pytest.approx(total, abs=1e-9)
    again = reference_logprobs(spec, groups, lambda: pytest.fail("loaded again"), nullcontext)
    assert all(
        np.array_equal(a, b)
        for one, other in zip(first, again, strict=True)
        for a, b in zip(one.tokens or [], other.tokens or [], strict=True)
    )
