"""dry_run=plan prints the memory plan and refuses what does not fit the card."""

from pathlib import Path

import pytest

from flows.iterate import main
from storage.errors import UserError


def test_a_dry_run_prints_the_plan_and_refuses_what_does_not_fit(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    main(["run=mistral-7b", f"runs={tmp_path}", "dry_run=plan"])
    assert "memory of a GPU of 80 GB" in capsys.readouterr().out
    with pytest.raises(UserError, match="stage train needs"):
        main(["run=mistral-7b", "training=full", f"runs={tmp_path}", "dry_run=plan"])
    assert "train (too much)" in capsys.readouterr().out
