"""Functions that the tests' annotators name."""


def length(prompt: str, answer: str | None, category: str | None, response: str, ended: bool) -> float:
    return float(len(response))


def quality(prompt: str, answer: str | None, category: str | None, response: str, ended: bool) -> float:
    """The number after 'q' in a response like 'q3 ...'."""
    return float(response.split()[0][1:])


def failing(prompt: str, answer: str | None, category: str | None, response: str, ended: bool) -> float:
    raise RuntimeError(f"no idea about {response!r}")


def fails_on_bad(prompt: str, answer: str | None, category: str | None, response: str, ended: bool) -> float | None:
    if "bad" in response:
        raise ZeroDivisionError("bad")
    if "odd" in response:
        return float("nan")
    return None if "unknown" in response else float(len(response))


def hears_all(prompt: str, answer: str | None, category: str | None, response: str, ended: bool) -> float:
    """A number that shows which arguments a function got."""
    return float((prompt == "p?") + 2 * (answer == "42") + 4 * (category == "sums") + 8 * ended)


not_a_function = 3
