"""What is checked of a run's policies before anything is sampled: folders, adapters, positions."""

from pathlib import Path

from conf.schema import RunConfig
from flows.plan import Plan
from tasks.generation.encode import context_length
from tasks.modeling.load import load_tokenizer
from tasks.modeling.policy_folder import check_whole
from tasks.modeling.positions import beyond, position_limit
from tasks.modeling.pretrained import read_config
from tasks.training.degrees import label_tokens


def check_policies(config: RunConfig, plan: Plan) -> None:
    """Raise UserError for a policy of the run that is not whole, or that cannot be trained as configured."""
    trust = config.policy.trust_remote_code
    for policy in {folder.path: None for folder in (plan.initial, plan.before_initial, *plan.named.values())}:
        check_whole(policy, load_tokenizer(policy, trust_remote_code=trust).get_vocab(), trust_remote_code=trust)
    for artifact in (plan.initial, *plan.named.values()):
        _check_positions(config, artifact.path)
    if config.training.lora is not None:
        from tasks.training.policy import check_adapters  # imports torch

        check_adapters(plan.initial.path, config.training.lora, trust_remote_code=trust)
    degrees = config.objective.needs().degrees
    if degrees is not None:
        label_tokens(load_tokenizer(plan.initial.path, trust_remote_code=trust), degrees.labels)


def _check_positions(config: RunConfig, policy: Path) -> None:
    """Raise UserError when the engine's context reaches beyond the length up to which positions mean the same."""
    model = read_config(policy, trust_remote_code=config.policy.trust_remote_code)
    limit = position_limit(model)
    context = config.engine.max_model_len or context_length(policy, trust_remote_code=config.policy.trust_remote_code)
    if limit is not None and context > limit:
        raise beyond(model, f"the engine's context has {context} tokens", limit)
