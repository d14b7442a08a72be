// Keys, choices that the browser remembers, and rows that stay unfolded. Everything works without this file; htmx keeps
// lists up to date.
"use strict";

// A list that is brought up to date keeps its rows unfolded.
let unfolded = [];
document.addEventListener("htmx:beforeSwap", () => {
  unfolded = [...document.querySelectorAll("#list details[open]")].map((details) => details.id);
});
document.addEventListener("htmx:afterSwap", () => {
  for (const id of unfolded) document.getElementById(id)?.setAttribute("open", "");
});

for (const box of document.querySelectorAll("[data-remembered]")) {
  const remembered = localStorage.getItem(box.dataset.remembered);
  if (remembered !== null) box.checked = remembered === "true";
  box.addEventListener("change", () => localStorage.setItem(box.dataset.remembered, box.checked));
}

// A key is the page's unless it is typed somewhere, or the reader turned single keys off (WCAG 2.1.4).
function isForPage(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return false;
  if (localStorage.getItem("keys") === "false") return false;
  return !event.target.closest?.("input:not([type=range], [type=checkbox]), select, textarea, dialog");
}

// What has data-key="k" is pressed by that key.
document.addEventListener("keydown", (event) => {
  if (!isForPage(event) || event.repeat) return;
  const letter = event.key.toLowerCase();
  const key = event.shiftKey && letter !== event.key ? `Shift+${letter}` : letter;
  const pressed = document.querySelector(`[data-key="${CSS.escape(key)}"]`);
  if (!pressed) return;
  event.preventDefault();
  if (pressed.matches("textarea")) pressed.focus();
  else pressed.click();
});
document.getElementById("keys-button")?.addEventListener("click", () => document.getElementById("keys").showModal());

// A finding that is being saved is not saved twice by a double click.
function mayBeSent() {
  delete document.querySelector(".reading")?.dataset.sent;
}
addEventListener("pageshow", mayBeSent);
document.addEventListener("htmx:afterRequest", mayBeSent); // also one that failed
document.addEventListener(
  "submit",
  (event) => {
    if (!event.target.matches(".reading")) return;
    if (event.target.dataset.sent) {
      event.preventDefault();
      event.stopImmediatePropagation();
    }
    event.target.dataset.sent = "yes";
  },
  { capture: true }, // before htmx
);
