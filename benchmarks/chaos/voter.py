"""An annotator that takes its time, as judges behind a network do: a stage of votes lasts long enough to be hit."""

import time

_SECONDS = 0.002


def variety(prompt: str, answer: str | None, category: str | None, response: str, ended: bool) -> float:
    """Different characters in the response."""
    time.sleep(_SECONDS)
    return float(len(set(response)))
