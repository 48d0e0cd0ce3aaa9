"""Rows of a data set on the Hugging Face hub."""

from collections.abc import Iterator

from storage.errors import UserError
from storage.rows import Row
from tasks.modeling.pretrained import read_dataset


def hub_rows(name: str, split: str, *, setting: str) -> Iterator[tuple[str, Row]]:
    """(where, row) of a data set on the hub; its files are mapped, not held in memory.

    setting: the group of the configuration that names it. Raises UserError when it cannot be loaded.
    """
    from datasets.exceptions import DatasetsError

    try:
        data = read_dataset(name, split=split)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:  # RuntimeError: it is a script
        raise UserError(
            f"the data set cannot be loaded: {str(error).splitlines()[0]}",
            where=f"{setting}.path={name} {setting}.split={split}",
            remedy="check the id, the split and the connection (HF_TOKEN for a gated one), or give a file or folder",
        ) from None
    for number, row in enumerate(data):
        yield f"{name}:{split} row {number}", dict(row)
