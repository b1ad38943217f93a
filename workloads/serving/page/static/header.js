/* Title, models, state, and what opens and changes the page. Asks the server how the models are, less often while nobody looks. */
"use strict";
alpaca.words = props.words[alpaca.language];
Object.assign(alpaca, { historyTurns: props.historyTurns, compares: props.compares, system: props.system, votes: props.votes, suggestions: props.suggestions[alpaca.language], sliders: props.sliders });
const { words, talk } = alpaca;
const LOOK_MS = 3000, HIDDEN_MS = 30000;
const find = (name) => element.querySelector(`.${name}`);
let known = null, timer = null, version = null;

find("title").textContent = props.title;
const press = {
  list: () => alpaca.drawer("left"),
  new: () => { talk.begin(); alpaca.focus?.(); },
  gear: () => alpaca.drawer("right"),
  language: () => alpaca.speak({ zh: "en", en: "zh" }[alpaca.language]),
  shade: () => alpaca.shade(),
  leave: async () => { await fetch("/logout", { method: "POST" }); location.assign("/login"); },
};
for (const [name, pressed] of Object.entries(press)) {
  find(name).addEventListener("click", pressed);
  find(name).title = words[`press_${name}`];
  find(name).setAttribute("aria-label", words[`press_${name}`]);
}
find("new").querySelector(".wide").textContent = words.press_new;
find("language").textContent = { zh: "EN", en: "中" }[alpaca.language];
find("leave").hidden = !props.hasLogin;

/* Whom to ask: one model, or two beside each other. */
const selects = [find("model"), find("other")];
selects.forEach((select, pane) => {
  select.setAttribute("aria-label", pane ? words.other : words.model);
  select.addEventListener("change", () => {
    talk.choose("models", [...new Set(selects.map((each) => each.value).filter(Boolean))]);
    offerModels();
    alpaca.offer();
    talk.touch();
  });
});
function offerModels() {
  const all = (alpaca.known ?? []).map((model) => model.name), names = talk.names();
  selects.forEach((select, pane) => {
    const options = pane ? [["", words.alone], ...all.filter((name) => name !== names[0]).map((name) => [name, `+ ${name}`])] : all.map((name) => [name, name]);
    select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
    select.value = names[pane] ?? "";
    select.hidden = all.length < 2;
  });
}

function tell(condition, text) {
  find("state").dataset.condition = condition;
  if (find("words").textContent !== text) find("words").textContent = text;
}

async function look() {
  clearTimeout(timer);
  try {
    const sight = await server.look();
    const said = sight.condition === "ready" && sight.models.length === 1 ? sight.models[0].name : words[sight.condition].replace("{waiting}", sight.waiting);
    tell(sight.condition, [said, sight.detail].filter(Boolean).join(" — "));
    const signature = JSON.stringify(sight.models);
    if (sight.models.length && signature !== known) {
      known = signature;
      alpaca.known = sight.models;
      alpaca.offer();
      talk.touch();
    }
    // A page of another version was put in the place of this one, and scripts that are still to be loaded are no longer there.
    version ??= sight.version;
    if (version !== sight.version && !talk.isWriting) location.reload();
  } catch {
    tell("offline", words.offline);
    if (props.hasLogin) await enterAgain();
  }
  timer = setTimeout(look, document.hidden ? HIDDEN_MS : LOOK_MS);
}
/* A session that has ended is told by the server's answer; what was said is kept in this browser. */
async function enterAgain() {
  const answer = await fetch("/gradio_api/app_id").catch(() => null);
  if (answer?.status === 401) location.assign("/login");
}
alpaca.offer = () => { offerModels(); trigger("found"); };
alpaca.offer();
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
look();
