"""Talk to a policy on the terminal, or to two side by side; a vote between them is kept as a preference.

    python -m flows.chat runs/mine
    python -m flows.chat runs/mine --against initial
    python -m flows.chat runs/mine/round-02 --against round-01 --temperature 0
    python -m flows.chat runs/mine --prompt "What is the sum of 2 and 3?"

While you talk: /new starts a new conversation, /quit (or Ctrl-D) ends. With --against you are asked which reply is
better after each turn: a, b, = or Enter for no vote. Votes are rows of <run>/chat.jsonl, which `flows.train data=` and
`mixing.offline` read.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from flows.chat_votes import CHOICES, VOTES, keep_vote, replied
from flows.result import Result, find_result, named_policy
from flows.show.replies import show_replies
from flows.show.terminal import console, exit_on_user_error
from storage.conversations import Message
from storage.errors import UserError
from storage.files import parse_yaml


def main(words: Sequence[str]) -> None:
    options = _parser().parse_args(words)
    first = find_result(options.policy)
    rivals = [named_policy(options.against, first.run)] if options.against else []
    results = [first, *rivals]
    if options.votes is None and rivals and first.run is None:
        raise UserError(
            "there is no run folder to keep votes in", where=str(options.policy), remedy="name a file: --votes FILE"
        )
    votes = options.votes or (first.run / VOTES if first.run else None)
    from tasks.generation.settings import SamplingSettings
    from tasks.generation.talk import Talker

    sampling = SamplingSettings(
        temperature=_setting(options.temperature, first, "temperature", 1.0),
        top_p=_setting(options.top_p, first, "top_p", 1.0),
        max_tokens=options.max_tokens or int(_setting(None, first, "max_tokens", 512)),
    )
    talkers = [
        Talker(result.folder, dtype=options.dtype, trust_remote_code=options.trust_remote_code) for result in results
    ]
    for letter, result in zip(CHOICES, results, strict=False):
        console.print(f"{f'{letter}: ' if rivals else ''}{result.name}   {result.folder}", style="dim", soft_wrap=True)
    conversation: list[Message] = []
    for number, said in enumerate(_turns(options.prompt, one=bool(options.prompt))):
        if said == "/new":
            conversation = []
            continue
        asked: list[Message] = [*conversation, {"role": "user", "content": said}]
        streams = [talker.reply(asked, sampling, options.seed + number) for talker in talkers]
        texts = show_replies([result.name for result in results], streams)
        better = _ask_vote() if rivals and votes and not options.prompt else None
        if better is not None and votes is not None:
            kept = keep_vote(votes, asked, texts, better, [str(result.folder) for result in results])
            console.print(f"kept in {votes}" if kept else "the replies are equal: no vote is kept", style="dim")
        conversation = replied(asked, texts, better)


def _turns(prompt: str | None, *, one: bool) -> Iterator[str]:
    """What the user says, turn by turn; with `one` the prompt alone."""
    if one and prompt is not None:
        yield prompt
        return
    while True:
        line = _line("you> ")
        if line is None or line.strip() in ("/quit", "/exit"):
            return
        if line.strip().startswith("/") and line.strip() != "/new":
            console.print("commands: /new, /quit", style="dim")
        elif line.strip():
            yield line.strip()


def _ask_vote() -> str | None:
    """a, b or =; None for no vote."""
    while True:
        answer = _line("better? a, b, = or Enter> ")
        if answer is None or not answer.strip():
            return None
        if answer.strip().lower() in (*CHOICES, "="):
            return answer.strip().lower()
        console.print("write a, b or =, or press Enter for no vote", style="dim")


def _line(prompt: str) -> str | None:
    """A line of input; None at its end."""
    try:
        return input(prompt) if sys.stdin.isatty() else _piped(prompt)
    except EOFError:
        return None


def _piped(prompt: str) -> str:
    line = input()
    console.print(f"{prompt}{line}", soft_wrap=True)
    return line


def _setting(given: float | None, result: Result, name: str, default: float) -> float:
    """A sampling setting: as given, else as the run samples, else `default`."""
    if given is not None:
        return given
    if result.run is None:
        return default
    config = parse_yaml((result.run / "config.yaml").read_text(encoding="utf-8"))
    return float(config["sampling"][name])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.chat", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "policy", type=Path, help="a run (runs/mine), a round (runs/mine/round-01) or a policy's folder"
    )
    parser.add_argument("--against", metavar="POLICY", help="a second policy: initial, round-01, or as the first")
    parser.add_argument("--prompt", help="answer this one prompt and end")
    parser.add_argument("--temperature", type=float, help="0 takes the likeliest token; default: as the run samples")
    parser.add_argument("--top-p", type=float, help="share of the probability to sample from; default: as the run")
    parser.add_argument("--max-tokens", type=int, help="tokens of a reply, at most; default: as the run samples")
    parser.add_argument("--seed", type=int, default=0, help="of the replies: the same one gives the same replies")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the weights")
    parser.add_argument("--votes", type=Path, metavar="FILE", help=f"JSONL for votes; default: {VOTES} in the run")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that the policy's folder brings")
    return parser


if __name__ == "__main__":
    exit_on_user_error(lambda: main(sys.argv[1:]))
