"use strict";
// How texts are looked at: formatted or plain, scrolled together or apart; and what is printed on the keys.

const plain = () => !$("formatted").checked;

// A text as it is, or the HTML that the server made of it: only formatting, without links, images or scripts.
function put(element, text, html) {
  const formatted = !plain() && html !== undefined && Boolean(text.trim());
  element.classList.toggle("formatted", formatted);
  element.classList.toggle("nothing", !text.trim());
  if (!formatted) {
    element.textContent = text.trim() ? text : text ? "(only white space)" : "(empty)";
    return;
  }
  element.innerHTML = html;
  // What can be wider than its pane is scrolled by keys too.
  for (const wide of element.querySelectorAll("pre, table, .display")) wide.tabIndex = 0;
}

$("formatted").checked = localStorage.getItem("irepo-plain") !== "yes";
$("linked").checked = localStorage.getItem("irepo-apart") !== "yes";
$("formatted").addEventListener("change", () => {
  localStorage.setItem("irepo-plain", plain() ? "yes" : "no");
  if (queue.length && !$("voting").hidden) putTexts();
});
$("linked").addEventListener("change", () => localStorage.setItem("irepo-apart", $("linked").checked ? "no" : "yes"));

// Both texts at the same share of their height. A text that was moved by the other does not move it back.
let moved = null;
for (const [here, there] of [["a", "b"], ["b", "a"]]) {
  $(here).addEventListener("scroll", () => {
    if (moved === here) { moved = null; return; }
    const from = $(here), to = $(there);
    const room = from.scrollHeight - from.clientHeight, top = room > 0 ? from.scrollTop / room : 0;
    const wanted = Math.round(top * (to.scrollHeight - to.clientHeight));
    if (!$("linked").checked || Math.abs(to.scrollTop - wanted) < 1) return;
    moved = there;
    to.scrollTop = wanted;
  });
}

// What is printed on the keys, where the browser tells.
navigator.keyboard?.getLayoutMap().then(layout => {
  for (const each of document.querySelectorAll("[data-code]")) {
    each.textContent = (layout.get(each.dataset.code) || each.textContent).toUpperCase();
  }
}).catch(() => {});
