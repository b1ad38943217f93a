/* The list of conversations. */
"use strict";
alpaca.words = props.words[alpaca.language];
const { book, talk, words } = alpaca;
const find = (name) => element.querySelector(`.${name}`);
const search = find("search"), list = find("shelf");
search.placeholder = words.search;
search.setAttribute("aria-label", words.search);

function make(tag, name, text) {
  const made = document.createElement(tag);
  made.className = name;
  if (text) made.textContent = text;
  return made;
}

function download(conversation, kind) {
  const address = URL.createObjectURL(new Blob([book[kind](conversation)], { type: { markdown: "text/markdown", json: "application/json" }[kind] }));
  const link = make("a", "");
  link.href = address;
  link.download = `${conversation.title.replace(/[\\/:*?"<>|]/g, " ").trim() || words.unnamed}.${{ markdown: "md", json: "json" }[kind]}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
}

function menu(conversation, title) {
  const details = make("details", "menu"), summary = make("summary", "more", "⋯"), actions = make("div", "actions");
  summary.setAttribute("aria-label", `${words.more}: ${title}`);
  const action = (name, press) => {
    const button = make("button", name, words[name]);
    button.addEventListener("click", () => { details.open = false; press(); });
    actions.append(button);
  };
  action("rename", () => rename(conversation));
  action("markdown", () => download(book.read(conversation.id), "markdown"));
  action("json", () => download(book.read(conversation.id), "json"));
  action("remove", () => { if (confirm(`${words.remove}?\n${title}`)) talk.remove(conversation.id); });
  details.append(summary, actions);
  return details;
}

function rename(conversation) {
  const row = list.querySelector(`[data-id="${CSS.escape(conversation.id)}"]`), field = make("input", "name");
  field.value = conversation.title;
  field.setAttribute("aria-label", words.rename);
  let left = false;
  const leave = (keeps) => {
    if (left) return;
    left = true;
    field.remove();
    if (keeps) talk.rename(conversation.id, field.value);
    show();
  };
  field.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter") leave(true);
    if (event.key === "Escape") { event.stopPropagation(); leave(false); }
  });
  field.addEventListener("blur", () => leave(true));
  row.replaceChildren(field);
  field.select();
}

function show() {
  if (list.querySelector(".name")) return;  // while one is being renamed
  const found = search.value.trim() ? book.search(search.value) : book.all();
  const rows = found.map((conversation) => {
    const row = make("li", ""), open = make("button", "open", conversation.title || words.unnamed);
    row.dataset.id = conversation.id;
    open.title = open.textContent;
    open.addEventListener("click", () => { talk.show(conversation.id); if (innerWidth <= 768) alpaca.drawer("left", false); });
    if (conversation.id === talk.open.id) open.setAttribute("aria-current", "true");
    row.append(open, menu(conversation, open.textContent));
    return row;
  });
  list.replaceChildren(...(rows.length ? rows : [make("li", "none", search.value.trim() ? words.nothing : words.none)]));
}

search.addEventListener("input", show);
document.addEventListener("click", (event) => {
  for (const menu of list.querySelectorAll("details[open]")) if (!menu.contains(event.target)) menu.open = false;
});
element.addEventListener("keydown", (event) => {
  const menu = event.key === "Escape" && event.target.closest("details[open]");
  if (menu) { menu.open = false; menu.querySelector("summary").focus(); event.stopPropagation(); }
});
window.addEventListener("storage", (event) => { if (book.isOurs(event.key)) show(); });
alpaca.list = show;
alpaca.render = () => trigger("grown");
alpaca.under.watch(document.body);
if (innerWidth >= 1100) alpaca.drawer("left", true);
alpaca.render();
show();
