"""Files with random damage are read or refused: no other error, and no crash."""

import random
from pathlib import Path

from storage.errors import UserError
from storage.prompts import each_prompt
from storage.rows import read_rows
from tests.storage.test_file_corpus import FORMATS


def test_any_damage_is_read_or_refused(tmp_path: Path) -> None:
    """A byte that differs, a file that is cut, bytes that are added."""
    draw, refused = random.Random(0), list[tuple[Path, str]]()
    for number in range(400):
        path = draw.choice(list(FORMATS.values()))(tmp_path / str(number))
        file = draw.choice([path] if path.is_file() else sorted(each for each in path.rglob("*.*") if each.is_file()))
        data = bytearray(file.read_bytes()) or bytearray(b"x")
        place, added = draw.randrange(len(data)), draw.randbytes(draw.randrange(4))
        data[place : draw.choice([place, place + 1, len(data)])] = added
        file.write_bytes(data)
        try:
            list(each_prompt(read_rows(path), where=str(path)))
        except UserError as error:
            refused.append((path, error.where))
    assert all(str(path) in where for path, where in refused)
    assert len(refused) > 200
