"""Where in a judge's reply its answer stands: after its reasoning, on the last line, without emphasis."""

import re

from tasks.panel.chat import Reply

_THOUGHT = r"(?:\w{1,20}:)?(?:think|thinking|thoughts?|reasoning|reflection|scratchpad|analysis)"
#: Marks of reasoning: tags, those of Mistral and Kimi, and the channels of gpt-oss.
_CLOSE = re.compile(
    rf"</\s*{_THOUGHT}\s*>|\[/THINK\]|◁/think▷|<\|channel\|>\s*final\s*(?:<\|message\|>)?", re.IGNORECASE
)
_OPEN = re.compile(
    rf"<\s*{_THOUGHT}(?:\s[^<>]{{0,80}})?>|\[THINK\]|◁think▷|<\|channel\|>\s*(?:analysis|commentary)", re.IGNORECASE
)
#: A line that ends a block of code, or divides the page.
_FENCE = re.compile(r"\s*(?:`{3,}|~{3,}|-{3,}|\*{3,}|_{3,})\s*")
#: Marks of the end of a turn, which some servers leave in the text, and characters without width.
_END = re.compile(
    r"(?:<\|(?:[a-z_]*end[a-z_]*|eo[a-z_]+|return)\|>|</s>|<eos>|<end_of_turn>|[\s\u200b\u2060\ufeff])+\Z"
)
#: Markdown around a verdict: emphasis, code and headings. It is no text.
_MARKS = r"[*_~`#\s]*"


def answer_start(text: str) -> int | None:
    """Where the answer begins: after the mark that ends the reasoning, such as </think>. <think> may be missing.

    None when the reasoning does not end.
    """
    start = 0
    for tag in _CLOSE.finditer(text):
        start = tag.end()
    return None if _OPEN.search(text, start) else start


def in_brackets(pattern: str) -> re.Pattern[str]:
    """`pattern` as group 1 in double brackets, with Markdown around and inside them and nothing else."""
    return re.compile(rf"{_MARKS}\[\[{_MARKS}({pattern}){_MARKS}\]\]{_MARKS}[.!。]?{_MARKS}")


def last_line(reply: Reply, pattern: re.Pattern[str]) -> re.Match[str] | None:
    """The match of `pattern` with the last line of the answer; None for a reply that failed or was cut off.

    A line that only ends a block of code, or divides the page, is not counted.
    """
    if reply.error is not None or reply.text is None:
        return None
    text, start = reply.text, answer_start(reply.text)
    if start is None:
        return None
    end = _answer_end(text, start)
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
    return None if start is None else pattern.fullmatch(reply.text, start, _answer_end(reply.text, start))


def _answer_end(text: str, start: int) -> int:
    end = _END.search(text, start)
    return len(text) if end is None else end.start()
