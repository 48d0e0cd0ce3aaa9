"""Does a task fit into the policy's context? lm-eval cuts prompts from the left without a word, down to nothing."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, Protocol

from storage.errors import UserError

NEW_TOKENS = 256  # that lm-eval reserves for a reply where the task does not say
_DOCUMENTS = 100  # of a task, whose length is looked at


class Task(Protocol):
    """What is read of lm-eval's tasks."""

    OUTPUT_TYPE: str

    @property
    def eval_docs(self) -> Sequence[Any]: ...

    @property
    def config(self) -> Any: ...

    def doc_to_text(self, doc: Any) -> Any: ...


def context_of(config: Any, model_args: Mapping[str, object]) -> int | None:
    """The context in tokens: what lm-eval is told, or the policy's own; None where neither is known."""
    told = model_args.get("max_model_len") or model_args.get("max_length")
    own = getattr(config.get_text_config(), "max_position_embeddings", None)
    sizes = [size for size in (told, own) if isinstance(size, int) and size > 0]
    return min(sizes) if sizes else None


def check_context(name: str, task: Task, context: int, tokens: Callable[[str], int]) -> None:
    """Raises UserError when half of the task's questions do not fit, without examples, beside the reply.

    tokens: the number of tokens of a text.
    """
    reply = _reply_tokens(task)
    room = context - reply
    questions = [task.doc_to_text(doc) for _, doc in zip(range(_DOCUMENTS), task.eval_docs, strict=False)]
    lengths = [tokens(text) for text in questions if isinstance(text, str)]
    typical = int(median(lengths)) if lengths else 1
    if room >= max(typical, 1):
        return
    asked = f"{reply} tokens of a reply and " if reply else ""
    raise UserError(
        f"the task {name} needs {asked}{typical} tokens for half of its questions, and the policy's context has "
        f"{context}; lm-eval would cut the questions",
        where="harness.tasks",
        remedy="leave the task out, lower max_gen_toks in a task file of your own (harness.include), or use a policy "
        "with a longer context",
    )


def _reply_tokens(task: Task) -> int:
    """Tokens that lm-eval reserves for a generated reply; 0 for a task that only scores given texts."""
    if task.OUTPUT_TYPE != "generate_until":
        return 0
    from lm_eval.models.utils import normalize_gen_kwargs

    given = normalize_gen_kwargs(dict(task.config.generation_kwargs or {}), default_max_gen_toks=NEW_TOKENS)
    return int(given["max_gen_toks"])
