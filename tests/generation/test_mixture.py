"""Sampling from pi_ref^m pi^(1-m): the mixture against arithmetic by hand and against plain forwards of both models."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.tiny import build_policy
from storage.errors import UserError
from storage.schemas import RESPONSES, read_parquet
from tasks.generation.engines import Engine, Mixture, Request, Sample
from tasks.generation.engines.transformers import TransformersEngine, TransformersSettings, choose, mixed
from tasks.generation.settings import MixtureSettings, SamplingSettings
from tasks.generation.shards import load_policies
from tasks.generation.stage import run
from tasks.modeling.load import load_policy
from tests.conftest import MakePolicy
from tests.generation.conftest import MakeSpec

SAMPLING = SamplingSettings(responses=3, max_tokens=8)
Drawn = list[list[Sample]]


def sampled(requests: list[Request], policy: Path, mixture: Mixture | None) -> Drawn:
    engine = TransformersEngine(TransformersSettings(dtype="float32"))
    if mixture is None:
        engine.load(policy)
    else:
        engine.load_mixture(policy, mixture)
    drawn = engine.sample(requests, SAMPLING)
    engine.close()
    return drawn


def ids(drawn: Drawn) -> list[list[list[int]]]:
    return [[sample.token_ids for sample in samples] for samples in drawn]


def test_the_mixture_of_two_distributions() -> None:
    """Logits (1, 0, -1) and (0, 1/2, 0) with share 1/4: proportional to exp(.75, .125, -.75)."""
    policy, other = (torch.tensor([logits]).log_softmax(-1) for logits in ([1.0, 0.0, -1.0], [0.0, 0.5, 0.0]))
    found = mixed(policy, other, torch.tensor([[0.25]])).exp()
    torch.testing.assert_close(found, torch.tensor([[0.56870154, 0.30440400, 0.12689447]]), atol=1e-7, rtol=0)


def test_an_impossible_token_stays_impossible_and_the_ends_are_the_two_policies() -> None:
    policy, other = torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.tensor([[0.2, 0.0, 0.8]]).log()
    for share, expected in ((0.0, policy), (1.0, other), (0.5, torch.tensor([[1.0, 0.0, 0.0]]).log())):
        found = mixed(policy, other, torch.tensor([[share]]))
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
        assert share or torch.equal(found, policy)


def test_tokens_are_those_of_plain_forwards_of_both_models(
    tiny_policy: Path, make_policy: MakePolicy, requests: list[Request]
) -> None:
    reference, share = make_policy(seed=1), 0.3
    drawn = sampled(requests[:2], tiny_policy, Mixture(reference, share))
    models = [load_policy(folder, dtype="float32", device="cpu") for folder in (tiny_policy, reference)]
    for request, samples in zip(requests[:2], drawn, strict=True):
        for index, sample in enumerate(samples):
            uniform = np.random.default_rng([request.seed, index]).random(SAMPLING.max_tokens)
            written = list(request.prompt_ids)
            for at, token in enumerate(sample.token_ids):
                with torch.inference_mode():
                    one, two = (model(torch.tensor([written])).logits[:, -1].double() for model in models)
                logits = (1 - share) * one + share * two
                assert choose(logits.log_softmax(-1), torch.tensor(uniform[at : at + 1]), SAMPLING).item() == token
                assert sample.logprobs[at] == pytest.approx(one.log_softmax(-1)[0, token].item(), abs=5e-5)
                written.append(token)


def test_shares_0_and_1_are_the_two_policies_and_the_first_half_is_the_policys(
    tiny_policy: Path, make_policy: MakePolicy, requests: list[Request]
) -> None:
    reference = make_policy(seed=1)
    own, other = (ids(sampled(requests, policy, None)) for policy in (tiny_policy, reference))
    assert own != other
    assert ids(sampled(requests, tiny_policy, Mixture(reference, 0.0))) == own
    assert ids(sampled(requests, tiny_policy, Mixture(reference, 1.0))) == other
    halves = ids(sampled(requests, tiny_policy, Mixture(reference, 1.0, first=2)))
    assert halves == [[*mine[:2], theirs[2]] for mine, theirs in zip(own, other, strict=True)]


def test_a_stage_samples_the_mixture_and_verifies_the_policy(make_spec: MakeSpec, make_policy: MakePolicy) -> None:
    plain = make_spec("plain")
    fields = {"mixture": MixtureSettings(share=0.5, first=1), "reference": make_policy(seed=1)}
    spec = type(plain).model_validate(make_spec("mixed").model_dump() | fields)
    assert spec.key() != plain.key()
    assert spec.inputs.keys() == plain.inputs.keys() | {"reference"}
    engine = TransformersEngine(TransformersSettings(dtype="float32"))
    manifests = [run(each, engine=engine) for each in (plain, spec)]
    assert manifests[1].summary["sampler_gap_max"] < 5e-5
    alone, both = (
        read_parquet(sorted(each.folder.glob("responses-*.parquet")), RESPONSES).to_pylist() for each in (plain, spec)
    )
    same = [one["response_ids"] == two["response_ids"] for one, two in zip(alone, both, strict=True)]
    assert all(same[::2])
    assert not all(same[1::2])


class Plain:
    """An engine without mixtures."""

    def load(self, policy: Path) -> None:
        raise AssertionError("nothing is loaded")


def test_other_engines_and_other_vocabularies_are_refused(
    make_spec: MakeSpec, make_policy: MakePolicy, tiny_policy: Path, tmp_path: Path
) -> None:
    fields = {"mixture": MixtureSettings(share=0.5), "reference": make_policy(seed=1)}
    spec = make_spec("mixed")
    spec = type(spec).model_validate(spec.model_dump() | fields)
    plain: Engine = Plain()  # type: ignore[assignment]
    with pytest.raises(UserError, match="samples from one policy") as refused:
        load_policies(plain, spec)
    assert "online-ipo" in refused.value.remedy
    larger = build_policy(tmp_path / "larger", seed=0, tied=True)
    model = load_policy(larger, dtype="float32", device="cpu")
    model.resize_token_embeddings(model.config.vocab_size + 64)
    model.save_pretrained(larger)
    with pytest.raises(UserError, match="vocabularies"):
        TransformersEngine(TransformersSettings(dtype="float32")).load_mixture(tiny_policy, Mixture(larger, 0.5))
