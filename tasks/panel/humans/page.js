"use strict";
// The page: the voter's name, the next comparison, and the voter's actions. unsent.js sends votes, views.js draws texts.

const QUICK = 250;      // ms after a comparison appears in which keys are ignored as accidental
const LOOK = 5000;      // ms between requests for work while there is none
const UNDOABLE = 20;    // votes that can be undone

const KEYS = {KeyA: "a", KeyB: "b", KeyT: "tie", KeyS: "skip", KeyU: "undo", Digit1: "slight", Digit2: "clear"};
let person = localStorage.getItem("irepo-person") || "";
let batch = null;       // the current batch, as the server describes it
let wanted = null;      // path of the batch that this person chose
let queue = [];         // the next comparisons; the first one is on the screen
let shownAt = 0;        // time at which it appeared, ms
let fetching = null, look = null;
let taken = 0;          // votes from this tab that the server accepted
const settled = new Set();  // comparisons voted on in this tab; a response on its way may still list them

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
  const shared = batches.reduce((sum, each) => sum + (each.shared || 0), 0);
  const agrees = batches.reduce((sum, each) => sum + (each.agrees || 0), 0);
  $("agreed").hidden = !shared;
  $("agreed").textContent = `You agree with others on ${agrees} of the ${shared} comparisons that others voted on too.`;
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
  $("agreed").hidden = true;
  $("undolast").hidden = !history().length;
  const lost = $("voting").contains(document.activeElement) || $("actions").contains(document.activeElement);
  screen("empty");
  if (lost) $("emptytitle").focus();  // what had the focus is hidden now
}

function turnOf(message) {
  const turn = document.createElement("div");
  turn.className = "turn";
  const role = turn.appendChild(document.createElement("span"));
  role.className = "role";
  role.textContent = {user: "Prompt", system: "System", assistant: "Assistant"}[message.role] || message.role;
  const words = turn.appendChild(document.createElement("div"));
  words.className = "words";
  words.dir = "auto";
  put(words, message.content, message.html);
  return turn;
}

function putTexts() {
  const question = queue[0];
  $("prompt").replaceChildren(...question.prompt.map(turnOf));
  for (const side of ["a", "b"]) put($(side), question[side], question.html?.[side]);
}

function show(choice) {
  putTexts();
  for (const side of ["a", "b"]) $(side).scrollTop = 0;
  for (const button of document.querySelectorAll("[data-choice]")) button.classList.toggle("chosen", button.dataset.choice === choice);
  $("paneA").classList.toggle("chosen", choice === "a");
  $("paneB").classList.toggle("chosen", choice === "b");
  $("instructions").textContent = batch.instructions;
  $("instructions").hidden = !batch.instructions;
  $("strength").hidden = !batch.strength;
  $("second").hidden = !batch.second;
  $("secondquestion").textContent = batch.second;
  for (const each of document.querySelectorAll("input[type=radio]")) each.checked = false;
  $("undo").disabled = !history().length;
  screen("voting");
  $("prompt").scrollTop = $("prompt").scrollHeight;
  window.scrollTo(0, 0);
  shownAt = performance.now();
}

function drawProgress() {
  $("title").textContent = batch ? batch.title : "Votes";
  $("label").textContent = batch ? batch.label : "";
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
    option.textContent = `${each.label} (${each.left} left)`;
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
  for (const name of ["strength", "second"]) {
    const said = document.querySelector(`input[name=${name}]:checked`);
    if (said) cast[name] = said.value;
  }
  $("note").value = "";
  send(cast);
  const done = {a: "A is better", b: "B is better", tie: "Tie", skip: "Skipped"}[choice];
  if (queue.length) show();
  else blank("One moment", "Looking for the next comparison.");
  $("said").textContent = queue.length ? `${done}. The next comparison is shown.` : done;
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
  // Safari leaves the focus where it was, which may be the note; keys would be typed into it.
  button.addEventListener("click", () => { button.focus(); vote(button.dataset.choice); });
}
// The place of a key decides, so that the keys work with every alphabet; then its letter, for the key that has it printed.
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing) return;
  if (event.target.matches("input:not([type=checkbox], [type=radio]), select, textarea")) {
    if ((event.key === "Enter" || event.key === "Escape") && event.target === $("note")) $("note").blur();
    return;
  }
  const letter = event.key.toUpperCase();
  const action = KEYS[event.code] || KEYS[`Key${letter}`] || KEYS[`Digit${letter}`];
  if (action === "undo") undo();
  else if (action === "slight" || action === "clear") mark(action);
  else if (action) vote(action);
});
function mark(strength) {
  const choice = document.querySelector(`input[value=${strength}]`);
  if (!$("voting").hidden && !$("strength").hidden) choice.checked = !choice.checked;
}
window.addEventListener("online", flush);
begin();
