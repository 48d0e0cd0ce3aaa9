"""Reasoning replies: a thought, then the final answer.

What is trained is the whole reply. Annotators see the final answer, as a user does.
"""

#: Tokens around a thought. Where a tokenizer lists them as special, texts of replies keep them all the same.
THOUGHT_TOKENS = frozenset({"<think>", "</think>", "[THINK]", "[/THINK]"})


def split_reasoning(reply: str, end: str | None) -> tuple[str, str]:
    """(thought, final answer); both together are `reply`.

    The answer follows the last `end`, such as </think>, and the white space after it. A reply that begins with the
    opening mark (<think>) and has no `end` was cut off in its thought: its answer is empty. end None: no thought.
    """
    if end is None:
        return "", reply
    _, mark, rest = reply.rpartition(end)
    if mark:
        answer = rest.lstrip()
        return reply[: len(reply) - len(answer)], answer
    opening = end.replace("/", "", 1)
    if opening != end and reply.lstrip().startswith(opening):
        return reply, ""
    return "", reply
