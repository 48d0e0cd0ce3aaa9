"""Rows with one response and its scores, as in HelpSteer: responses to the same prompt become pairs.

The rows of a prompt follow one another. Every two responses with different scores are a pair, with
P(better) = sigmoid(scale * difference); equal scores make no pair.
"""

import logging
from collections.abc import Iterable, Iterator
from itertools import combinations, groupby

from storage.conversations import Message, read_text
from storage.errors import UserError
from storage.prompts import prompt_id
from storage.rows import Row
from tasks.mixing.shapes.helpsteer import prompt_of_row
from tasks.mixing.shapes.pair import OfflinePair, Reading, number

log = logging.getLogger("irepo")


def fits(row: Row, reading: Reading) -> bool:
    return "response" in row


def pairs(rows: Iterable[tuple[str, Row]], reading: Reading) -> Iterator[OfflinePair]:
    """The pairs of each prompt. Warns of prompts whose rows are apart, since these are not compared.

    Raises UserError for a row without a response or without a score.
    """
    answers = (_answer(where, row, reading) for where, row in rows)
    seen: set[str] = set()  # prompts
    apart: list[str] = []  # where a prompt comes again
    for identifier, group in groupby(answers, key=lambda answer: answer[0]):
        responses = list(group)
        if identifier in seen:
            apart.append(responses[0][-1])
        seen.add(identifier)
        for (_, prompt, one, score, where), (*_, other, other_score, other_where) in combinations(responses, 2):
            if score == other_score:
                continue
            chosen, rejected = (one, other) if score > other_score else (other, one)
            both = f"{where} and {other_where.rpartition(':')[2]}"
            yield OfflinePair(both, prompt, chosen, rejected, reading.probability(abs(score - other_score)), "scores")
    if apart:
        log.warning(
            "%d times a prompt comes again after rows of other prompts, first at %s: responses are compared only where "
            "the rows of their prompt follow one another; sort the file by prompt to compare all",
            len(apart),
            apart[0],
        )


def _answer(where: str, row: Row, reading: Reading) -> tuple[str, list[Message], str, float, str]:
    """(prompt's id, prompt, response, score, where)"""
    field = reading.response_score
    if field is None or row.get(field) is None:
        raise UserError(
            f"the row has one response and no score of it{f' in {field}' if field else ''}: it is not a pair",
            where=where,
            remedy=f"name the field that scores responses: {reading.setting}.response_score=<field>; or write prompt, "
            "chosen and rejected",
        )
    prompt = prompt_of_row(row, where)
    text = read_text(row.get("response"), field="response", where=where)
    return prompt_id(prompt), prompt, text, number(row[field], field, where), where
