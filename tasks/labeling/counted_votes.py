"""The votes as they count: for objectives that read votes themselves, so that every method hears the same ones."""

import numpy as np
import pyarrow as pa

from storage.schemas import COUNTED_VOTES
from tasks.labeling.aggregation.estimate import AnnotatorFit, by_reliability
from tasks.labeling.aggregation.votes import Votes


def counted_votes(
    votes: Votes, annotator_fit: AnnotatorFit, prompt_ids: pa.Array, annotators: tuple[str, ...]
) -> pa.Table:
    """Rows of storage.schemas.COUNTED_VOTES, in the order of `votes`; votes of weight 0 are left out.

    votes: of all prompts, with preferences.weights and soft_votes applied. Annotators of estimated reliability count
    as preferences do: reversed below one half, and with |2 eta - 1| times their weight.
    """
    counted = by_reliability(votes, annotator_fit)
    counted = counted.take(counted.weight > 0)
    columns = {
        "prompt_id": prompt_ids.take(pa.array(counted.prompt)),
        "index_a": counted.first.astype(np.int32),
        "index_b": counted.second.astype(np.int32),
        "annotator": pa.array(annotators, pa.string()).take(pa.array(counted.annotator)),
        "share": counted.share,
        "weight": counted.weight,
    }
    return pa.table(columns, schema=COUNTED_VOTES)
