"""axe-core in a tab: the accessibility rules that a page breaks. Nothing is fetched; the library is a file of ours."""

import gzip
from pathlib import Path
from typing import Any

from tests.flows.browser import Page

_SOURCE = Path(__file__).parents[1] / "assets" / "axe-core-4.11.1.min.js.gz"


def violations(page: Page) -> list[str]:
    """The rules that the open page breaks, each with the first elements that break it."""
    page.evaluate(gzip.decompress(_SOURCE.read_bytes()).decode() + ";0")
    answer = page._call(
        "Runtime.evaluate",
        expression="axe.run(document, {resultTypes: ['violations']}).then(found => found.violations)",
        awaitPromise=True,
        returnByValue=True,
    )
    found: list[dict[str, Any]] = answer["result"]["value"]
    return [
        f"{rule['id']}: {rule['help']}: {[node['html'][:200] for node in rule['nodes'][:3]]}; "
        f"{rule['nodes'][0].get('failureSummary')}"
        for rule in found
    ]
