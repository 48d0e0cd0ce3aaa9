"use strict";
// The page: the voter's name, the next comparison, and the votes that the server has not written to its disk yet.

const $ = id => document.getElementById(id);
const QUICK = 250;      // ms after a comparison appears in which keys are ignored as accidental
const LOOK = 5000;      // ms between requests for work while there is none
const UNDOABLE = 20;    // votes that can be undone

const OUT = "irepo-vote ";  // + person, batch, comparison: storage key of an unsent vote
let person = localStorage.getItem("irepo-person") || "";
let batch = null;       // the current batch, as the server describes it
let wanted = null;      // path of the batch that this person chose
let queue = [];         // the next comparisons; the first one is on the screen
let shownAt = 0;        // time at which it appeared, ms
let fetching = null, look = null;
let taken = 0;          // votes from this tab that the server accepted
const settled = new Set();  // comparisons voted on in this tab; a response on its way may still list them

// ---------------------------------------------------------------- unsent votes

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

// ---------------------------------------------------------------- the next comparison

function history() {
  return JSON.parse(localStorage.getItem(`irepo-history ${person}`) || "[]");
}

function remember(list) {
  localStorage.setItem(`irepo-history ${person}`, JSON.stringify(list.slice(-UNDOABLE)));
  $("undo").disabled = !list.length;
}

function refill() {
  if (!fetching) fetching = requestWork().finally(() => { fetching = null; });
  return fetching;
}

async function requestWork() {
  const who = person, before = taken;
  const words = new URLSearchParams({person: who});
  if (wanted ?? batch?.batch) words.set("batch", wanted ?? batch.batch);
  let answer, work;
  try {
    answer = await fetch(`api/work?${words}`, {signal: AbortSignal.timeout(10000)});
    work = await answer.json();
  } catch {
    answer = null;
  }
  if (who !== person) return;
  if (taken !== before) return requestWork();  // this response may be older than the last vote
  if (!answer || !answer.ok) {
    if (!queue.length) blank("No answer", answer ? work.error : "The server does not answer. This page tries again by itself.");
    again();
    return;
  }
  if (work.person !== person) rename(work.person);
  const current = queue[0];
  if (!batch || work.batch !== batch.batch) queue = [];
  batch = work.batches.find(each => each.batch === work.batch) || null;
  const voted = new Set(waiting().map(each => JSON.parse(each.kept).vote)
    .filter(vote => vote.person === person && batch && vote.batch === batch.batch && vote.choice !== "withdrawn")
    .map(vote => vote.id));
  const fresh = each => each.id !== queue[0]?.id && !voted.has(each.id) && !settled.has(`${work.batch} ${each.id}`);
  queue = [...queue.slice(0, 1), ...work.questions.filter(fresh)];  // without comparisons that others completed meanwhile
  if (!queue.length && batch && !wanted && !batch.left && work.batches.some(each => each.left)) {
    batch = null;  // this batch is done: the server chooses the next one
    setTimeout(refill, 0);
    return;
  }
  drawBatches(work.batches);
  drawProgress();
  showStatus();
  if (queue.length) {
    if (queue[0] !== current || $("voting").hidden) show();
  } else {
    rest(work.batches);
  }
}

function rest(batches) {
  const mine = batches.reduce((sum, each) => sum + each.mine, 0);
  if (!batches.length) blank("Nothing to vote on", "No round is waiting for votes. This page checks again by itself.");
  else if (batches.every(each => each.reached)) blank("All done", "The comparisons have the votes they need, and the round can go on. Thank you!");
  else if (mine) blank("Nothing left for you", "You have voted on everything that still needs votes. The rest is up to others. This page checks again by itself.");
  else blank("Nothing for you here", "Others have voted on everything. This page checks again by itself.");
  again();
}

function again() {
  clearTimeout(look);
  look = setTimeout(() => person && refill(), LOOK);
}

// ---------------------------------------------------------------- the screen

function screen(name) {
  for (const each of ["welcome", "empty", "voting"]) $(each).hidden = each !== name;
  $("actions").hidden = name !== "voting";
  $("person").hidden = !person;
}

function blank(title, text) {
  $("emptytitle").textContent = title;
  $("emptytext").textContent = text;
  $("undolast").hidden = !history().length;
  screen("empty");
}

// Responses are set as text, never as HTML, so that nothing in them runs.
function put(element, text) {
  element.textContent = text.trim() ? text : text ? "(only white space)" : "(empty)";
  element.classList.toggle("nothing", !text.trim());
  element.scrollTop = 0;
}

function show(choice) {
  const question = queue[0];
  const turns = question.prompt.map(message => {
    const turn = document.createElement("div");
    turn.className = "turn";
    const role = turn.appendChild(document.createElement("span"));
    role.className = "role";
    role.textContent = {user: "Prompt", system: "System", assistant: "Assistant"}[message.role] || message.role;
    const words = turn.appendChild(document.createElement("div"));
    words.className = "words";
    words.dir = "auto";
    words.textContent = message.content;
    return turn;
  });
  $("prompt").replaceChildren(...turns);
  put($("a"), question.a);
  put($("b"), question.b);
  for (const button of document.querySelectorAll("[data-choice]")) button.classList.toggle("chosen", button.dataset.choice === choice);
  $("paneA").classList.toggle("chosen", choice === "a");
  $("paneB").classList.toggle("chosen", choice === "b");
  $("instructions").textContent = batch.instructions;
  $("instructions").hidden = !batch.instructions;
  $("undo").disabled = !history().length;
  screen("voting");
  $("prompt").scrollTop = $("prompt").scrollHeight;
  window.scrollTo(0, 0);
  shownAt = performance.now();
}

function drawProgress() {
  $("title").textContent = batch ? batch.title : "Votes";
  document.title = batch ? `${batch.complete}/${batch.needed} · ${batch.title}` : "Votes";
  $("progress").textContent = batch ? `${batch.complete} of ${batch.needed} done · ${batch.mine} by you` : "";
  const share = batch ? Math.min(1, batch.complete / Math.max(1, batch.needed)) : 0;
  $("bar").firstElementChild.style.width = `${100 * share}%`;
  $("bar").setAttribute("aria-valuemax", batch ? batch.needed : 0);
  $("bar").setAttribute("aria-valuenow", batch ? batch.complete : 0);
  $("person").textContent = person;
}

function drawBatches(batches) {
  $("batches").hidden = batches.length < 2;
  $("batches").replaceChildren(...batches.map(each => {
    const option = document.createElement("option");
    option.value = each.batch;
    option.textContent = `${each.batch} (${each.left} left)`;
    option.selected = batch !== null && each.batch === batch.batch;
    return option;
  }));
}

// ---------------------------------------------------------------- the voter's actions

function vote(choice) {
  const now = performance.now();
  if ($("voting").hidden || !queue.length || now - shownAt < QUICK) return;
  const question = queue.shift();
  remember([...history(), {batch, question, choice}]);
  settled.add(`${batch.batch} ${question.id}`);
  const cast = {batch: batch.batch, id: question.id, person, choice, order: question.order};
  cast.seconds = Math.round((now - shownAt) / 100) / 10;
  if ($("note").value.trim()) cast.note = $("note").value.trim();
  $("note").value = "";
  $("note").blur();
  send(cast);
  if (queue.length) show();
  else blank("One moment", "Looking for the next comparison.");
  refill();
}

function undo() {
  const list = history();
  const last = list.pop();
  if (!last) return;
  remember(list);
  settled.delete(`${last.batch.batch} ${last.question.id}`);
  const same = batch && batch.batch === last.batch.batch;
  queue = [last.question, ...(same ? queue.filter(each => each.id !== last.question.id) : [])];
  if (!same) batch = last.batch;
  send({batch: batch.batch, id: last.question.id, person, choice: "withdrawn", order: last.question.order});
  drawProgress();
  show(last.choice);
}

function rename(name) {
  person = name;
  localStorage.setItem("irepo-person", name);
}

function begin() {
  queue = [];
  batch = null;
  wanted = null;
  drawProgress();
  if (!person) {
    screen("welcome");
    $("name").focus();
    return;
  }
  blank("One moment", "Looking for the first comparison.");
  refill();
  flush();
}

$("entry").addEventListener("submit", event => {
  event.preventDefault();
  const name = $("name").value.trim();
  $("wrong").textContent = /[\p{L}\p{N}]/u.test(name) ? "" : "A name needs a letter or a digit.";
  if ($("wrong").textContent) return;
  rename(name);
  begin();
});
$("person").addEventListener("click", () => {
  $("name").value = "";
  person = "";
  localStorage.removeItem("irepo-person");
  begin();
});
$("batches").addEventListener("change", event => {
  wanted = event.target.value;
  queue = [];
  batch = null;
  refill();
});
for (const button of [$("undo"), $("undolast")]) button.addEventListener("click", undo);
for (const button of document.querySelectorAll("[data-choice]")) {
  button.addEventListener("click", () => { button.blur(); vote(button.dataset.choice); });
}
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.matches("input, select, textarea")) {
    if (event.key === "Enter" || event.key === "Escape") event.target === $("note") && $("note").blur();
    return;
  }
  const choice = {a: "a", b: "b", t: "tie", s: "skip"}[event.key.toLowerCase()];
  if (choice) vote(choice);
  else if (event.key.toLowerCase() === "u") undo();
});
window.addEventListener("online", flush);
begin();
