"""A slow annotator, as judges behind a network are: a label stage takes long enough to be hit by a kill."""

import time

_SECONDS = 0.002


def variety(prompt: str, answer: str | None, category: str | None, response: str, ended: bool) -> float:
    """Number of distinct characters in the response."""
    time.sleep(_SECONDS)
    return float(len(set(response)))
