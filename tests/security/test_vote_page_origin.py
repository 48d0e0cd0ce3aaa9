"""A page of another origin can neither read from the page for votes nor vote on it."""

import json
from pathlib import Path

from tests.flows.another_origin import another_origin
from tests.flows.browser import browser, needs_browser
from tests.panel.people import serving
from tests.waiting import wait_until

#: Reads, a vote as JSON, and a vote as a form, which a browser sends without asking first.
ATTACK = """(async () => {
  const server = %s, found = {};
  const send = async (name, path, options) => {
    try { found[name] = (await fetch(server + path, options)).status; } catch (error) { found[name] = "refused"; }
  };
  await send("work", "/api/work?person=stranger");
  await send("json", "/api/votes", {method: "POST", headers: {"content-type": "application/json"}, body: "{}"});
  await send("form", "/api/votes", {method: "POST", mode: "no-cors", body: "{}"});
  window.found = found;
})()"""


@needs_browser
def test_a_page_of_another_origin_neither_reads_nor_votes(tmp_path: Path) -> None:
    with another_origin() as address, serving(tmp_path) as server, browser() as page:
        before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
        page.open(address)
        page.until_it_says("another page")
        page.evaluate(ATTACK % json.dumps(server.address))
        wait_until(lambda: page.evaluate("window.found"), 30)
        found = page.evaluate("window.found")
        assert found.pop("form") in (0, "refused")  # the page cannot see the answer
        assert set(found.values()) == {"refused"}
        assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before
