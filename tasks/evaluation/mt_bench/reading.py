"""Reading the grade in a judge's reply."""

import re

from tasks.panel.annotators.reply_text import answer_start

_NUMBER = r"[*_`\s]*(\d{1,3}(?:\.\d{1,6})?)(?:\s*/\s*10)?[*_`\s]*"
#: [[x]], or [x] where it is announced: "Grade: [7]". `source` is the word before a citation: "see [[1]]".
_GRADE = re.compile(
    rf"(?P<source>\b(?:see|cf|sources?|refs?|references?|footnotes?|notes?)\b[.:\s]*)?\[\[{_NUMBER}\]\]"
    rf"|\b(?:grade|rating|score)[*_`\s]*(?:is)?[*_`\s:=]*\[{_NUMBER}\](?![(:\]])",
    re.IGNORECASE,
)
_LINK = re.compile(r"\(|:")  # after [[x]]: [[1]](https://...), [[1]]: source
_SCALE = re.compile(r"(?:/|\bout of)[*_`\s]*\Z", re.IGNORECASE)  # before [[x]]: 8 out of [[10]]
_NOTE = re.compile(r"\s*\[\^?\w{1,9}\]:")  # a line that begins so is a footnote
_TEXT = re.compile(r"[^\S\n]*[^\s.!*_`]")


def read_grade(text: str) -> float | None:
    """The last grade in a judge's reply, after its reasoning between <think> tags: [[x]], or [x] after "Grade:".

    Footnotes, links and the scale (8 out of [[10]]) are no grades. None without a grade, when the reasoning does not
    end, and when x is not from 1 to 10.
    """
    start = answer_start(text)
    if start is None:
        return None
    found = [match for match in _GRADE.finditer(text, start) if not _is_no_grade(text, match)]
    sure = [match for match in found if not _may_be_a_source(text, match)]
    last = (sure or found)[-1:]
    grade = float(last[0][2] or last[0][3]) if last else 0.0
    return grade if 1 <= grade <= 10 else None


def _line_before(text: str, match: re.Match[str]) -> str:
    return text[text.rfind("\n", 0, match.start()) + 1 : match.start()]


def _is_no_grade(text: str, match: re.Match[str]) -> bool:
    announced = match["source"] is None and match[3] is not None
    linked = _LINK.match(text, match.end()) is not None and not announced
    before = _line_before(text, match)
    return linked or _NOTE.match(before) is not None or _SCALE.search(before) is not None


def _may_be_a_source(text: str, match: re.Match[str]) -> bool:
    """Whether it is "see [[1]]", or begins a line that goes on: a grade only if there is no other."""
    begins = not _line_before(text, match).strip() and _TEXT.match(text, match.end()) is not None
    return match["source"] is not None or begins
