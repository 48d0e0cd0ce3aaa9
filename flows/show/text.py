"""Text from models, files and configurations in Prefect's Markdown: shown as it is, never interpreted."""

import re

from storage.plain import plain

#: Markdown's own characters, each to be preceded by a backslash.
_MARKDOWN = re.compile(r"([\\`*_{}\[\]#|~$!])")


def cell(text: str) -> str:
    """One cell of a Markdown table: shown as it is, on one line, never as Markdown or HTML."""
    escaped = _MARKDOWN.sub(r"\\\1", plain(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", "<br>")


def code(text: object) -> str:
    """A name in Markdown as code. Backticks in it, which would end the code, are left out."""
    return "`" + plain(str(text)).replace("`", "").replace("\n", " ") + "`"


def first_part(text: str, characters: int) -> str:
    """The beginning of a text, with a mark where the rest is left out; for replies."""
    return text if len(text) <= characters else f"{text[:characters]} …"


def last_part(text: str, characters: int) -> str:
    """The end of a text, with a mark where the rest is left out; for prompts, whose last turn is what was asked."""
    return text if len(text) <= characters else f"… {text[-characters:]}"
