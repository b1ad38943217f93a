/* The list of conversations. Each is kept in this browser under a key of its own, so that two tabs do not overwrite each other's. */
"use strict";
const PREFIX = "literary-alpaca/conversation/", CURRENT = "literary-alpaca/current", SAVE_MS = 400;
const words = props.words[alpaca.language];
let waiting = null, latest = props.value;
const removed = new Set();  // the server may still send one that was deleted meanwhile: it is not kept, and not left on the page

const stored = () => Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
const read = (key) => {
  try { return JSON.parse(localStorage.getItem(key)); } catch { return null; }
};
const all = () => stored().map(read).filter(Boolean).sort((one, other) => other.updatedAt - one.updatedAt);

function save(conversation) {
  clearTimeout(waiting);
  waiting = null;
  if (!conversation.turns.length || removed.has(conversation.id)) return;
  const key = PREFIX + conversation.id, text = JSON.stringify(conversation);
  for (;;) {
    try { localStorage.setItem(key, text); return; } catch {
      // Full: the oldest goes. One that does not fit even alone stays on the page, and is not kept.
      const oldest = all().filter((other) => other.id !== conversation.id).pop();
      if (!oldest) return;
      localStorage.removeItem(PREFIX + oldest.id);
    }
  }
}

function show() {
  const list = element.querySelector(".shelf");
  const rows = all().map((conversation) => {
    const row = document.createElement("li");
    row.dataset.id = conversation.id;
    const open = document.createElement("button"), remove = document.createElement("button");
    open.className = "open";
    open.textContent = conversation.title || words.unnamed;
    open.title = open.textContent;
    if (conversation.id === props.value.id) open.setAttribute("aria-current", "true");
    remove.className = "remove";
    remove.textContent = "×";
    remove.setAttribute("aria-label", `${words.remove}: ${open.textContent}`);
    row.append(open, remove);
    return row;
  });
  if (!rows.length) {
    const none = document.createElement("li");
    none.className = "none";
    none.textContent = words.none;
    rows.push(none);
  }
  list.replaceChildren(...rows);
}

element.addEventListener("click", (event) => {
  const id = event.target.closest("li")?.dataset.id;
  if (!id) return;
  if (event.target.closest(".remove")) {
    if (!confirm(`${words.remove}?`)) return;
    removed.add(id);
    localStorage.removeItem(PREFIX + id);
    if (id === props.value.id) trigger("emptied");
    show();
  } else {
    if (waiting) save(latest);
    const conversation = read(PREFIX + id);
    if (!conversation) return show();  // another tab removed it
    sessionStorage.setItem(CURRENT, id);
    trigger("opened", { conversation, chosen: alpaca.chosen() });
  }
});
watch("value", () => {
  if (removed.has(props.value.id)) return trigger("emptied");
  if (waiting && latest.id !== props.value.id) save(latest);
  latest = props.value;
  sessionStorage.setItem(CURRENT, latest.id);
  waiting ??= setTimeout(() => { save(latest); show(); }, SAVE_MS);
});
window.addEventListener("pagehide", () => { if (waiting) save(latest); });
window.addEventListener("storage", (event) => { if (event.key === null || event.key.startsWith(PREFIX)) show(); });

if (window.innerWidth >= 1100) document.querySelector(".sidebar:not(.open) .toggle-button")?.click();
show();
trigger("restored", { conversation: read(PREFIX + sessionStorage.getItem(CURRENT)), chosen: alpaca.chosen() });
