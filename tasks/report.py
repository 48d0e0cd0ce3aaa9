"""What a Prefect task returns and logs of a finished stage: small, JSON, enough to watch a round by."""

from pathlib import Path
from typing import Any

from prefect.logging import get_run_logger

from storage.manifest import Manifest


def stage_result(manifest: Manifest, folder: Path) -> dict[str, Any]:
    """The stage's flow state: where its files are, the digest that downstream stages build on, its figures."""
    result = {
        "stage": manifest.stage,
        "round": manifest.round,
        "folder": str(folder),
        "key": manifest.key,
        "content": manifest.content,
        "seconds": manifest.seconds,
        "rows": manifest.rows,
        "summary": manifest.summary,
    }
    get_run_logger().info(
        "%s of round %d: %s in %.1f s, %s", manifest.stage, manifest.round, manifest.rows, manifest.seconds, folder
    )
    return result
