/* Title, state of the model, language and shade. Asks the server how the model is, less often while nobody looks. */
"use strict";
const words = props.words[alpaca.language];
const LOOK_MS = 3000, HIDDEN_MS = 30000;
const find = (name) => element.querySelector(`.${name}`);
let known = null, timer = null;

find("title").textContent = props.title;
find("language").textContent = { zh: "English", en: "中文" }[alpaca.language];
find("language").lang = { zh: "en", en: "zh-CN" }[alpaca.language];
find("shade").setAttribute("aria-label", words.shade);
find("shade").title = words.shade;
find("language").addEventListener("click", () => alpaca.speak({ zh: "en", en: "zh" }[alpaca.language]));
find("shade").addEventListener("click", alpaca.shade);
find("leave").textContent = words.leave;
find("leave").hidden = !props.hasLogin;
find("leave").addEventListener("click", async () => {
  await fetch("/logout", { method: "POST" });
  location.assign("/login");
});

function tell(condition, text) {
  find("state").dataset.condition = condition;
  if (find("words").textContent !== text) find("words").textContent = text;
}

async function look() {
  clearTimeout(timer);
  try {
    const sight = await server.look();
    const said = words[sight.condition].replace("{waiting}", sight.waiting);
    tell(sight.condition, [sight.condition === "ready" ? sight.models.join(" · ") : said, sight.detail].filter(Boolean).join(" — "));
    if (sight.models.length && sight.signature !== known) {
      known = sight.signature;
      trigger("found", { chosen: alpaca.chosen() });
    }
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
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
look();
