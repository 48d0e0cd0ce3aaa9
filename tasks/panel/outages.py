"""What a stage does when an annotator was given up: it stops, or goes on with errors where answers are missing."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from storage.errors import UserError

log = logging.getLogger("irepo")

#: stop: the stage is not finished; the next attempt asks for the missing answers. go_on: they are errors for good.
OnOutage = Literal["stop", "go_on"]


def stop_on_outage(outages: Mapping[str, str], on_outage: OnOutage, *, setting: str | None, folder: Path) -> None:
    """Raises UserError when annotators were given up (`outages`: name -> why), unless `on_outage` is go_on.

    Call it when the answers are written and the stage's manifest is not. setting: the dotted name of `on_outage`,
    None where the user cannot choose.
    """
    if not outages:
        return
    reasons = "; ".join(f"{name} was given up: {why}" for name, why in outages.items())
    if on_outage == "go_on":
        log.warning("%s=go_on: %s goes on without answers. %s", setting, folder.name, reasons)
        return
    raise UserError(
        f"{reasons}. The stage is not finished; the answers so far are kept",
        where=str(folder),
        remedy="give the same command again when the model answers: only the missing answers are requested"
        + (f"; or go on without them: {setting}=go_on" if setting else ""),
    )
