"use strict";
// Votes that the server has not written to its disk yet. They are in the browser's storage until it says that it has.

const $ = id => document.getElementById(id);
const OUT = "irepo-vote ";  // + person, batch, comparison: storage key of an unsent vote

const outKey = vote => `${OUT}${vote.person} ${vote.batch} ${vote.id}`;

function waiting() {
  return Object.keys(localStorage).filter(key => key.startsWith(OUT))
    .map(key => ({key, kept: localStorage.getItem(key)}))
    .filter(each => each.kept !== null)
    .sort((one, other) => JSON.parse(one.kept).since - JSON.parse(other.kept).since);
}

function send(vote) {
  localStorage.setItem(outKey(vote), JSON.stringify({since: Date.now(), vote}));
  flush();
}

let pause = 0, timer = null, refused = "";

// One tab sends at a time, oldest vote first, so that a changed vote never arrives after its change.
function flush() {
  clearTimeout(timer);
  showStatus();
  navigator.locks.request("irepo-votes", async () => {
    for (const {key, kept} of waiting()) {
      let answer;
      try {
        answer = await fetch("api/votes", {
          method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(JSON.parse(kept).vote),
          signal: AbortSignal.timeout(10000),
        });
      } catch {
        return false;
      }
      if (answer.status >= 500) return false;
      const body = await answer.json().catch(() => ({}));
      if (answer.ok) {
        taken += 1;
        if (batch && body.batch === batch.batch && JSON.parse(kept).vote.person === person) batch = body;
        refused = "";
      } else {
        refused = body.error || `HTTP ${answer.status}`;
      }
      if (localStorage.getItem(key) === kept) localStorage.removeItem(key);
      drawProgress();
      showStatus();
    }
    return true;
  }).then(done => {
    pause = done ? 0 : Math.min(8000, pause * 2 || 500);
    if (!done) timer = setTimeout(flush, pause);
    showStatus();
    if (done && !queue.length && person) refill();
  });
}

function showStatus() {
  const votes = waiting().length;
  const status = $("status");
  status.classList.toggle("wrong", Boolean(refused) || (votes > 0 && pause > 0));
  const many = votes === 1 ? "1 vote is" : `${votes} votes are`;
  if (refused) status.textContent = `A vote was not accepted: ${refused}`;
  else if (votes && pause) status.textContent = `The server does not answer. ${many} kept in this browser and will be sent when the server is back.`;
  else if (votes) status.textContent = "Saving…";
  else status.textContent = batch && batch.mine ? "All your votes are saved." : "";
}
