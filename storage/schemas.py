"""Arrow schemas of the data between stages, and Parquet files in which equal rows give equal bytes."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.files import publish_file, publishing

# Arrow's default allocator (mimalloc) returns freed memory late: a stage that reads and writes row groups kept up to
# 60 MiB of freed memory (docs/benchmarks.md). The system allocator returns it.
pa.set_memory_pool(pa.system_memory_pool())

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

#: One row per prompt. prompt_id = first 16 hex digits of sha256 of the prompt's messages.
PROMPTS = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("messages", MESSAGES, nullable=False),
        pa.field("answer", pa.string()),  # what a verifier compares with; null where there is none
        pa.field("reference", pa.string()),  # a written reference reply; null where there is none
        pa.field("category", pa.string()),
        pa.field("source", pa.string(), nullable=False),  # file name and line (or row), for error messages
    ]
)

#: One row per prompt whose response has given parts: token ids before the sampled ones, and after them.
PREFIXES = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("prefix_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("suffix_ids", pa.list_(pa.int32()), nullable=False),
    ]
)

#: One row per response. Token ids are those that the sampler read and wrote; `text` is never tokenised again.
RESPONSES = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("response_index", pa.int32(), nullable=False),  # 0 .. m-1 within its prompt
        pa.field("prompt_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("response_ids", pa.list_(pa.int32()), nullable=False),  # with the end token, if it was sampled
        pa.field("text", pa.string(), nullable=False),  # response_ids decoded without special tokens
        pa.field("finish_reason", pa.string(), nullable=False),  # "stop" (ended by itself) or "length" (cut off)
        pa.field("logprobs", pa.list_(pa.float32()), nullable=False),  # of each response id, nats, untempered
        pa.field("seed", pa.int64(), nullable=False),  # the request's seed
    ]
)

#: One row per two-turn question of MT-Bench with the policy's answers.
DIALOGUES = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("turns", pa.list_(pa.string()), nullable=False),  # the questions, [2]
        pa.field("replies", pa.list_(pa.string()), nullable=False),  # [2]
        pa.field("finish_reasons", pa.list_(pa.string()), nullable=False),  # [2] "stop" or "length"
        pa.field("references", pa.list_(pa.string())),  # [2]; null where the question has none
    ]
)

#: One row per answer of MT-Bench, with its grade. grade is null unless outcome is "score".
GRADES = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("turn", pa.int32(), nullable=False),  # 1 or 2
        pa.field("outcome", pa.string(), nullable=False),  # score | error
        pa.field("grade", pa.float64()),  # 1 to 10
        pa.field("raw", pa.string()),  # what the judge wrote, or the error's text
        pa.field("tokens", pa.int64()),
        pa.field("cost", pa.float64()),
    ]
)

#: One row per scored response and annotator (annotators of kind "scores"). score is null unless outcome is "score".
SCORES = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),  # which responses: "policy", or in evaluation "initial", ...
        pa.field("response_index", pa.int32(), nullable=False),
        pa.field("annotator", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),  # score | abstain | error
        pa.field("score", pa.float64()),
        pa.field("raw", pa.string()),  # raw output, or the error's text
        pa.field("seconds", pa.float64()),  # null if not timed individually
        pa.field("tokens", pa.int64()),
        pa.field("cost", pa.float64()),  # in the currency of the annotator's price; null without a price
        pa.field("faults", pa.string()),  # transport errors before the answer: "HTTP 500, timeout"
    ]
)

#: One row per comparison and annotator. a and b name responses by (source, index).
VOTES = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("source_a", pa.string(), nullable=False),
        pa.field("index_a", pa.int32(), nullable=False),
        pa.field("source_b", pa.string(), nullable=False),
        pa.field("index_b", pa.int32(), nullable=False),
        pa.field("annotator", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # scores | pairs | ranking
        pa.field("outcome", pa.string(), nullable=False),  # a | b | tie | abstain | error
        pa.field("probability", pa.float64()),  # of "a is better", where the annotator gives one
        pa.field("order", pa.string(), nullable=False),  # shown order: ab | ba | both | none (not shown as a pair)
        pa.field("ab", pa.string()),  # outcome with a first, ba: with b first; null unless both were asked
        pa.field("ba", pa.string()),
        pa.field("raw", pa.string()),
        pa.field("seconds", pa.float64()),  # null if not timed individually; for a ranking, at its first pair
        pa.field("tokens", pa.int64()),
        pa.field("cost", pa.float64()),
        pa.field("faults", pa.string()),  # transport errors; ends with "unanswered" if no answer came
    ]
)

#: One row per vote as it counts in a label stage, after preferences.weights, soft_votes and reliability. Votes that do
#: not count have no row.
COUNTED_VOTES = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("index_a", pa.int32(), nullable=False),
        pa.field("index_b", pa.int32(), nullable=False),
        pa.field("annotator", pa.string(), nullable=False),
        pa.field("share", pa.float64(), nullable=False),  # of the vote that goes to a, 0 .. 1
        pa.field("weight", pa.float64(), nullable=False),  # above 0; 1 is one whole vote
    ]
)

#: One row per annotator of a label stage: its votes, reliability and cost. Shares are null if nothing counts towards
#: them.
ANNOTATORS = pa.schema(
    [
        pa.field("annotator", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("a", pa.int64(), nullable=False),
        pa.field("b", pa.int64(), nullable=False),
        pa.field("tie", pa.int64(), nullable=False),
        pa.field("abstain", pa.int64(), nullable=False),
        pa.field("error", pa.int64(), nullable=False),
        pa.field("unanswered", pa.int64(), nullable=False),  # errors because no answer came
        pa.field("faults", pa.string(), nullable=False),  # transport errors: JSON {"HTTP 500": 3}
        pa.field("agrees_with_panel", pa.float64()),  # share of its a and b votes on labelled pairs that chose `chosen`
        pa.field("agrees_with_others", pa.float64()),  # ... that agree with the majority of the other annotators
        pa.field("gold_votes", pa.int64(), nullable=False),  # its a and b votes on pairs that gold decides
        pa.field("gold_accuracy", pa.float64()),  # share of them that are correct
        pa.field("first_share", pa.float64()),  # of verdicts for one side, share for the one shown first: .5 = no bias
        pa.field("order_consistency", pa.float64()),  # share of comparisons with the same verdict in both orders
        pa.field("longer_share", pa.float64()),  # share of a and b votes for the longer response (characters)
        pa.field("triples", pa.int64(), nullable=False),  # three responses of a prompt with three a or b votes
        pa.field("intransitive", pa.int64(), nullable=False),  # of them, those that form a cycle
        pa.field("seconds", pa.float64()),  # sum over all its answers
        pa.field("tokens", pa.int64()),
        pa.field("cost", pa.float64()),
    ]
)

#: One row per pair of annotators that voted a, b or tie on the same comparisons.
AGREEMENT = pa.schema(
    [
        pa.field("annotator", pa.string(), nullable=False),
        pa.field("other", pa.string(), nullable=False),
        pa.field("both", pa.int64(), nullable=False),  # comparisons that both voted on
        pa.field("same", pa.float64(), nullable=False),  # share with the same vote
        pa.field("kappa", pa.float64()),  # Cohen's, agreement beyond chance; null if chance explains all of it
    ]
)

#: One row per labelled pair: TRL's conversational preference format, then what irepo adds.
PREFERENCES = pa.schema(
    [
        pa.field("prompt", MESSAGES, nullable=False),
        pa.field("chosen", MESSAGES, nullable=False),
        pa.field("rejected", MESSAGES, nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("round", pa.int32(), nullable=False),
        pa.field("chosen_index", pa.int32(), nullable=False),
        pa.field("rejected_index", pa.int32(), nullable=False),
        pa.field("p_hat", pa.float64(), nullable=False),  # empirical preference P(chosen > rejected) = sigmoid(target)
        pa.field("target", pa.float64(), nullable=False),  # its logit: what iREPO regresses on
        pa.field("target_se", pa.float64(), nullable=False),  # standard error of the logit
        pa.field("votes_chosen", pa.float64(), nullable=False),  # votes for chosen on this pair
        pa.field("votes_rejected", pa.float64(), nullable=False),
        pa.field("votes_tie", pa.float64(), nullable=False),
        pa.field("votes_abstain", pa.int32(), nullable=False),
        pa.field("votes_error", pa.int32(), nullable=False),
        pa.field("prompt_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("chosen_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("rejected_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("chosen_finish_reason", pa.string(), nullable=False),
        pa.field("rejected_finish_reason", pa.string(), nullable=False),
    ]
)

#: One row per response used in training: its log-probability under the reference, by the training forward.
REFERENCE = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("round", pa.int32(), nullable=False),  # the round whose generate stage wrote the response
        pa.field("response_index", pa.int32(), nullable=False),
        pa.field("logprob", pa.float64(), nullable=False),  # sum over response tokens, nats
    ]
)


def table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows (mappings) as a table of exactly `schema`. Raises ValueError on an unknown or missing non-null field."""
    rows = list(rows)
    names = set(schema.names)
    for row in rows:
        unknown = set(row) - names
        if unknown:
            raise ValueError(f"fields not in the schema: {sorted(unknown)}")
    result = pa.Table.from_pylist(rows, schema=schema)
    for field in schema:
        if not field.nullable and result.column(field.name).null_count:
            raise ValueError(f"field {field.name!r} has nulls")
    return result


def write_parquet(path: Path, data: pa.Table, *, row_group_size: int = 4096) -> None:
    """Publish `data` at `path` atomically (zstd)."""
    publish_file(
        path, lambda temporary: pq.write_table(data, temporary, compression="zstd", row_group_size=row_group_size)
    )
    pa.default_memory_pool().release_unused()


@contextmanager
def parquet_writer(path: Path, schema: pa.Schema, *, row_group_size: int = 4096) -> Iterator["Rows"]:
    """Yield Rows to write to; publish them at `path`, atomically, when the body ends without an error (zstd)."""
    with publishing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as file:
        rows = Rows(file, schema, row_group_size)
        yield rows
        rows.flush()


class Rows:
    """A buffered writer: keeps at most one row group in memory."""

    def __init__(self, file: pq.ParquetWriter, schema: pa.Schema, size: int) -> None:
        self._file, self._schema, self._size = file, schema, size
        self._buffer: list[pa.Table] = []
        self.count = 0

    def write(self, data: pa.Table) -> None:
        """Add rows of the schema."""
        self._buffer.append(data)
        self.count += len(data)
        if sum(map(len, self._buffer)) >= self._size:
            rows = pa.concat_tables(self._buffer)
            full = len(rows) // self._size * self._size
            self._file.write_table(rows[:full], row_group_size=self._size)
            self._buffer = [rows[full:]]
            pa.default_memory_pool().release_unused()

    def flush(self) -> None:
        """Write the buffered rows as the last row group."""
        rest = pa.concat_tables(self._buffer) if self._buffer else self._schema.empty_table()
        if len(rest) or not self.count:
            self._file.write_table(rest)
        self._buffer = []


def read_row_groups(
    paths: Path | Iterable[Path], schema: pa.Schema, columns: list[str] | None = None
) -> Iterator[pa.Table]:
    """As read_parquet, one row group at a time."""
    for path in [paths] if isinstance(paths, Path) else paths:
        with _opened(path) as file:
            for number in range(file.num_row_groups):
                yield _row_group(path, file, number, schema, columns)


def read_row_group(path: Path, number: int, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """Row group `number` of one file of `schema`. Raises ValueError, naming the file, if it has other columns."""
    with _opened(path) as file:
        return _row_group(path, file, number, schema, columns)


def row_group_sizes(path: Path) -> list[int]:
    """Rows of each row group. Raises ValueError, naming the file, when it cannot be read."""
    with _opened(path) as file:
        return [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except pa.ArrowInvalid as error:  # a cut file, or one without a wanted column
        raise _unreadable(path, error) from None


def _row_group(path: Path, file: pq.ParquetFile, number: int, schema: pa.Schema, columns: list[str] | None) -> pa.Table:
    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    data = file.read_row_group(number, columns=columns, use_threads=False)
    _check_columns(path, data, wanted)
    return data


def read_parquet(paths: Path | Iterable[Path], schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """Read one or several files of `schema`, in order. Raises ValueError, naming the file, if one has other columns."""
    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    tables = []
    for path in [paths] if isinstance(paths, Path) else list(paths):
        try:
            data = pq.read_table(path, columns=columns)
        except pa.ArrowInvalid as error:  # a cut file, or one without a wanted column
            raise _unreadable(path, error) from None
        _check_columns(path, data, wanted)
        tables.append(data)
    return pa.concat_tables(tables)


def _check_columns(path: Path, data: pa.Table, wanted: pa.Schema) -> None:
    if not data.schema.equals(wanted, check_metadata=False):
        raise ValueError(f"{path} does not have the expected columns: {data.schema.names} against {wanted.names}")


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be read: {str(error).splitlines()[0]}")
