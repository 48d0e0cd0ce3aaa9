"""Where in a judge's reply its answer stands: after its reasoning, on the last line, without emphasis."""

import re

from tasks.panel.chat import Reply

_CLOSE = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_OPEN = re.compile(r"<(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_FENCE = re.compile(r"\s*(?:`{3,}|~{3,})\s*")
#: Markdown around a verdict: emphasis, code and headings. It is no text.
_MARKS = r"[*_~`#\s]*"


def answer_start(text: str) -> int | None:
    """Where the answer begins: after the reasoning between <think> tags, of which the first may be missing.

    None when the reasoning does not end.
    """
    start = 0
    for tag in _CLOSE.finditer(text):
        start = tag.end()
    return None if _OPEN.search(text, start) else start


def in_brackets(pattern: str) -> re.Pattern[str]:
    """`pattern` as group 1 in double brackets, with Markdown around and inside them and nothing else."""
    return re.compile(rf"{_MARKS}\[\[{_MARKS}({pattern}){_MARKS}\]\]{_MARKS}\.?{_MARKS}")


def last_line(reply: Reply, pattern: re.Pattern[str]) -> re.Match[str] | None:
    """The match of `pattern` with the last line of the answer; None for a reply that failed or was cut off.

    A line that only ends a block of code is not counted.
    """
    if reply.error is not None or reply.text is None:
        return None
    text, start = reply.text, answer_start(reply.text)
    if start is None:
        return None
    end = start + len(text[start:].rstrip())
    while True:
        line = max(text.rfind("\n", start, end) + 1, start)
        if line == start or not _FENCE.fullmatch(text, line, end):
            return pattern.fullmatch(text, line, end)
        end = start + len(text[start:line].rstrip())


def whole_answer(reply: Reply, pattern: re.Pattern[str]) -> re.Match[str] | None:
    """The match of `pattern` with the whole answer; None for a reply that failed or was cut off."""
    if reply.error is not None or reply.text is None:
        return None
    start = answer_start(reply.text)
    return None if start is None else pattern.fullmatch(reply.text, start)
