"""The child process of test_child_process.py: `python -m tests.child_worker`."""

import logging
import os
import subprocess
import sys
import time
from typing import Literal

from pydantic import Field, TypeAdapter

from storage.errors import UserError
from tasks.child_process import Done, Message, serve

COMMAND = [sys.executable, "-m", "tests.child_worker"]


class Numbers(Message):
    values: list[float]


class Work(Message):
    do: Literal["nothing", "sum", "print", "fail", "refuse", "exit", "sleep", "warn"] = "nothing"
    values: list[float] = Field([])


def answer(work: Work) -> Message:
    if work.do == "sum":
        return Numbers(values=[*work.values, sum(work.values)])
    if work.do == "print":
        print("printed by Python")
        os.write(1, b"written to descriptor 1\n")
    if work.do == "fail":
        raise KeyError("no such thing")
    if work.do == "refuse":
        raise UserError("too large", where="size=9", remedy="lower size to 8\nor less")
    if work.do == "exit":
        print("the end is near", file=sys.stderr)
        sys.exit(3)
    if work.do == "warn":
        logging.getLogger("irepo").warning("%d things are odd", 3)
    if work.do == "sleep":
        time.sleep(1000)
    return Done()


if __name__ == "__main__":
    grandchild = subprocess.Popen(["sleep", "1000"], stdout=sys.stderr)
    serve(TypeAdapter(Work), answer)
