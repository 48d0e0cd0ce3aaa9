"""One reply at a time, as text that appears while it is sampled: for people who talk to a policy."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from storage.conversations import Message
from storage.errors import UserError
from tasks.generation.engines.transformers import choose
from tasks.generation.settings import SamplingSettings
from tasks.modeling.conversation import RefusedConversation, encode_chat
from tasks.modeling.end_tokens import end_tokens
from tasks.modeling.load import Dtype, check_policy_folder, load_policy, load_tokenizer


class Talker:
    """A policy with its weights in memory, on the GPU if there is one."""

    def __init__(self, folder: Path, *, dtype: Dtype = "float32", trust_remote_code: bool = False) -> None:
        """Raises UserError for a folder that is not a policy."""
        check_policy_folder(folder, trust_remote_code=trust_remote_code)
        self._tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
        self._model: Any = load_policy(folder, dtype=dtype, device="auto", trust_remote_code=trust_remote_code)
        self._ends = set(end_tokens(folder, trust_remote_code=trust_remote_code))

    def reply(self, messages: Sequence[Message], sampling: SamplingSettings, seed: int) -> Iterator[str]:
        """Pieces of the reply to a conversation that ends with a user's turn; together they are its text.

        The same seed, conversation and settings give the same reply. Raises UserError when the chat template refuses
        the conversation, and when it leaves no room in the policy's context.
        """
        import numpy as np
        import torch

        try:
            ids = encode_chat(self._tokenizer, messages)
        except RefusedConversation as refused:
            raise refused.at("the conversation") from None
        room = self._room(len(ids))
        draws = torch.from_numpy(np.random.default_rng([seed, 0]).random(room)).to(self._model.device)
        step, cache, tokens, shown = torch.tensor([ids], device=self._model.device), None, list[int](), ""
        for position in range(min(room, sampling.max_tokens)):
            with torch.inference_mode():
                output = self._model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache = output.past_key_values
                step = choose(output.logits[:, -1].float().log_softmax(-1), draws[position : position + 1], sampling)
            tokens.append(int(step))
            if tokens[-1] in self._ends:
                break
            step = step[:, None]
            text = str(self._tokenizer.decode(tokens, skip_special_tokens=True))  # typed as for batches too
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # the rest of the character follows
                yield text[len(shown) :]
                shown = text
        yield str(self._tokenizer.decode(tokens, skip_special_tokens=True))[len(shown) :]

    def _room(self, used: int) -> int:
        context = getattr(self._model.config.get_text_config(), "max_position_embeddings", None) or 1 << 20
        if used >= context:
            raise UserError(
                f"the conversation has {used} tokens, and the policy's context {context}",
                where="the conversation",
                remedy="start a new one: /new",
            )
        return int(context - used)
