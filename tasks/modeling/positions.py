"""Up to which length a policy's log-probabilities do not depend on what shares the forward.

LongRoPE (Phi-3.5, Phi-4-mini) chooses short or long factors, and dynamic NTK its base, by the largest position of the
whole forward (transformers' `dynamic_rope_update`): one sequence beyond the limit changes all that lie beside it, and
vLLM chooses by its context length instead. So sequences beyond the limit are refused.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from storage.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def position_limit(config: "PreTrainedConfig") -> int | None:
    """Tokens of a sequence up to which positions are embedded in one way; None: at any length."""
    text: Any = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    kinds = [kind for kind in rope.values() if isinstance(kind, Mapping)] if "rope_type" not in rope else [rope]
    limits: list[int] = []
    for kind in kinds:
        name = str(kind.get("rope_type", "default"))
        if name == "longrope":
            limits.append(int(kind.get("original_max_position_embeddings") or text.max_position_embeddings))
        elif "dynamic" in name:
            limits.append(int(text.max_position_embeddings))
    return min(limits, default=None)


def check_length(config: "PreTrainedConfig", longest: int) -> None:
    """Raise UserError when a sequence of `longest` tokens is beyond the policy's limit."""
    limit = position_limit(config)
    if limit is not None and longest > limit:
        raise beyond(config, f"a prompt with its response has {longest} tokens", limit)


def beyond(config: "PreTrainedConfig", what: str, limit: int) -> UserError:
    """The error for `what`, which is beyond the limit."""
    return UserError(
        f"{what}, and beyond {limit} tokens this policy embeds all positions in another way (LongRoPE or dynamic NTK): "
        "log-probabilities would depend on what shares the forward",
        where=str(getattr(config, "_name_or_path", "") or type(config).__name__),
        remedy=f"stay within the limit: engine.max_model_len={limit}, with sampling.max_tokens and prompts to fit, and "
        "no longer rows in offline preference sets",
    )
