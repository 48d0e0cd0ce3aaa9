"""Rows of storage.schemas.PREFERENCES: labels of pairs with the texts and token ids of their responses."""

import numpy as np
import pyarrow as pa

from storage.schemas import MESSAGES, PREFERENCES
from tasks.panel.responses import Responses

_RESPONSE_COLUMNS = ["text", "prompt_ids", "response_ids", "finish_reason"]


def preference_rows(responses: Responses, labels: pa.Table) -> pa.Table:
    """`labels` with texts and token ids. The index of a response is its slot."""
    place, chosen, rejected = (labels[name].to_numpy() for name in ("place", "chosen_index", "rejected_index"))
    sides = np.concatenate([responses.rows[place, chosen], responses.rows[place, rejected]])
    texts = responses.table(sides, _RESPONSE_COLUMNS)
    won, lost = texts[: len(labels)], texts[len(labels) :]
    columns = {
        "prompt": responses.prompt_table(place, ["messages"])["messages"],
        "chosen": _assistant(won["text"]),
        "rejected": _assistant(lost["text"]),
        "prompt_ids": won["prompt_ids"],
        "chosen_ids": won["response_ids"],
        "rejected_ids": lost["response_ids"],
        "chosen_finish_reason": won["finish_reason"],
        "rejected_finish_reason": lost["finish_reason"],
    }
    columns |= {name: labels[name] for name in labels.column_names if name != "place"}
    return pa.table({name: columns[name] for name in PREFERENCES.names}, schema=PREFERENCES)


def _assistant(texts: pa.ChunkedArray) -> pa.Array:
    """Each text as a conversation of one assistant message."""
    turns = pa.StructArray.from_arrays(
        [pa.repeat("assistant", len(texts)), texts.combine_chunks()], fields=list(MESSAGES.value_type)
    )
    return pa.ListArray.from_arrays(np.arange(len(texts) + 1, dtype=np.int32), turns)
