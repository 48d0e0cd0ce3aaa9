"""Pairs of replies with the votes on them. Without a script they can be filtered, sorted by disagreement, and compared
word by word: radio buttons and a checkbox choose, the style sheet shows."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from tasks.reporting.report import by_round
from tasks.reporting.report.drawing import text
from tasks.reporting.report.files import Pair, Round, heldout_pairs, labelled_pairs

STYLE = Path(__file__).with_name("samples.css").read_text(encoding="utf-8")
_OTHERS = ("tie", "abstain", "error")  # votes for neither side
_LONG = 1500  # characters; longer texts are cut
_WORD = re.compile(r"\s+|\w+|[^\w\s]")


def heldout(rounds: Sequence[Round]) -> str:
    """Replies of the initial and of the last policy that was not rolled back to the same prompts."""
    standing = [round_ for round_ in rounds if round_.number and not by_round.rolled_back(round_)]
    if not standing or rounds[0].number:
        return ""
    number = standing[-1].number
    note = f"Left: the initial policy; right: the policy of round {number}. The first reply to every k-th prompt."
    choices = {"right": f"round {number} wins", "left": "the initial policy wins", "even": "even or undecided"}
    return _pairs("heldout", heldout_pairs(rounds[0], standing[-1]), note, choices)


def labelled(rounds: Sequence[Round]) -> str:
    """Pairs of the last labelled round with the panel's votes."""
    if not rounds:
        return ""
    note = f"Every k-th pair of round {rounds[-1].number}'s preference set; left: the reply that the panel prefers."
    choices = {"left": "most votes left", "right": "most votes right", "even": "even or undecided"}
    return _pairs("labelled", labelled_pairs(rounds[-1]), note, choices)


def _pairs(name: str, pairs: Sequence[Pair], note: str, choices: dict[str, str]) -> str:
    """name: of the controls, once a page. choices: what each outcome of a pair is called."""
    if not pairs:
        return ""
    by_disagreement = sorted(range(len(pairs)), key=lambda i: -pairs[i].disagreement)
    place = {i: order for order, i in enumerate(by_disagreement)}
    counts = {outcome: sum(pair.outcome == outcome for pair in pairs) for outcome in choices}
    options = _option(name, "all", f"all {len(pairs)}", checked=True)
    options += "".join(_option(name, key, f"{says} ({counts[key]})") for key, says in choices.items() if counts[key])
    controls = (
        f'<fieldset class="controls"><legend>Show</legend>{options}'
        f'<label><input type="checkbox" class="sort"> most disagreement first</label>'
        f'<label><input type="checkbox" class="changed"> as a difference</label></fieldset>'
    )
    drawn = "".join(_pair(pair, place[i]) for i, pair in enumerate(pairs))
    quiet = f'<p class="quiet">{text(note)}</p>'
    return f'<div class="samples">{quiet}{controls}<div class="pairs">{drawn}</div></div>'


def _option(name: str, key: str, says: str, *, checked: bool = False) -> str:
    state = " checked" if checked else ""
    return f'<label><input type="radio" name="{name}" class="show-{key}"{state}> {text(says)}</label>'


def _pair(pair: Pair, order: int) -> str:
    sides = ""
    for side, note, name in zip(pair.sides, pair.notes, ("left", "right"), strict=True):
        votes = f"<br><b>chosen by {text(', '.join(pair.votes[name]))}</b>" if name in pair.votes else ""
        sides += f'<div class="side"><div class="reply" tabindex="0" dir="auto">{_clipped(side)}</div>'
        sides += f'<p class="quiet">{text(note)}{votes}</p></div>'
    others = "; ".join(f"{name}: {', '.join(pair.votes[name])}" for name in _OTHERS if name in pair.votes)
    drawn = f'<p class="votes">{text(others)}</p>' if others else ""
    prompt = f'<p class="prompt reply" tabindex="0" dir="auto">{_clipped(pair.prompt)}</p>'
    changed = f'<div class="difference reply" tabindex="0" dir="auto">{_difference(*pair.sides)}</div>'
    return (
        f'<article class="pair {pair.outcome}" style="--order: {order}">{prompt}'
        f'<div class="sides">{sides}</div>{changed}{drawn}</article>'
    )


def _difference(before: str, after: str) -> str:
    """The words of both replies: those of the left alone struck out, those of the right alone marked."""
    left, right = (_WORD.findall(side[:_LONG]) for side in (before, after))
    parts = []
    for what, a, b, c, d in difflib.SequenceMatcher(None, left, right).get_opcodes():
        old, new = text("".join(left[a:b])), text("".join(right[c:d]))
        if what == "equal":
            parts.append(old)
            continue
        parts += [f"<del>{old}</del>" if old else "", f"<ins>{new}</ins>" if new else ""]
    return "".join(parts) or '<span class="quiet">(both empty)</span>'


def _clipped(reply: str) -> str:
    if not reply:
        return '<span class="quiet">(empty)</span>'
    if len(reply) <= _LONG:
        return text(reply)
    return f'{text(reply[:_LONG])}… <span class="quiet">({len(reply):,} characters)</span>'
