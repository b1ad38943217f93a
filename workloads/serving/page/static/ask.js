/* Above the question: text files that go along, and which question is being put otherwise. */
"use strict";
const DRAFT = "literary-alpaca/draft", LARGEST_FILE = 2 * 1024 * 1024;
const { words, talk } = alpaca;
const find = (name) => element.querySelector(`.${name}`);
const input = find("input");
let files = [], editing = null;

function show(trouble = "") {
  const chips = files.map((file, number) => {
    const chip = document.createElement("li"), remove = document.createElement("button");
    chip.textContent = `📎 ${file.name} · ${words.characters.replace("{count}", [...file.text].length.toLocaleString())}`;
    remove.textContent = "×";
    remove.setAttribute("aria-label", `${words.detach}: ${file.name}`);
    remove.addEventListener("click", () => { files = files.filter((_, other) => other !== number); show(); });
    chip.append(remove);
    return chip;
  });
  find("files").replaceChildren(...chips);
  find("files").hidden = !chips.length;
  find("trouble").textContent = trouble;
  find("editing").hidden = editing === null;
}

/* UTF-8, or what Chinese Windows writes. */
async function read(file) {
  if (file.size > LARGEST_FILE) throw new Error(words.file_large);
  const bytes = await file.arrayBuffer();
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    try { text = new TextDecoder("gb18030", { fatal: true }).decode(bytes); } catch { throw new Error(words.file_binary); }
  }
  if (text.includes("\0")) throw new Error(words.file_binary);
  return { name: file.name, text: text.replace(/\r\n/g, "\n") };
}

async function attach(list) {
  const troubles = [];
  for (const file of list) {
    try { files = [...files, await read(file)]; } catch (error) { troubles.push(`${file.name}: ${error.message}`); }
  }
  input.value = "";
  show(troubles.join(" "));
  alpaca.focus();
}

// Gradio itself tells of a text that was pasted at the next key only.
document.addEventListener("input", (event) => { if (event.target.matches("#question textarea")) alpaca.drafted(event.target.value); });
input.addEventListener("change", () => attach([...input.files]));
document.addEventListener("dragover", (event) => { if (event.dataTransfer?.types.includes("Files")) event.preventDefault(); });
document.addEventListener("drop", (event) => {
  if (!event.dataTransfer?.files.length) return;
  event.preventDefault();
  attach([...event.dataTransfer.files]);
});
find("editing-words").textContent = words.editing;
find("give-up").textContent = words.give_up;
find("give-up").addEventListener("click", () => { editing = null; alpaca.draft = ""; trigger("filled"); show(); });

Object.assign(alpaca, {
  draft: sessionStorage.getItem(DRAFT) ?? "",
  drafted(text) { sessionStorage.setItem(DRAFT, text); },
  pick: () => input.click(),
  trouble: show,
  /* On a phone the keyboard would cover the page. */
  focus: () => { if (innerWidth > 640) document.querySelector("#question textarea")?.focus(); },
  editing(number, question) {
    editing = number;
    alpaca.draft = question;
    trigger("filled");
    show();
    document.querySelector("#question textarea")?.focus();
  },
  leaveEditing() { editing = null; show(); },
  /* What stays in the field. */
  send(question) {
    const asked = editing === null ? talk.ask(question, files) : talk.branch(editing, question);
    if (!asked) return question;
    files = [];
    editing = null;
    alpaca.drafted("");
    show();
    return "";
  },
});
show();
if (alpaca.draft) trigger("filled");
alpaca.focus();
