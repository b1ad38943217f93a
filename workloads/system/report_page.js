"use strict";
(() => {
  const root = document.documentElement;
  const kept = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
  const keep = (name, value) => { try { localStorage.setItem(name, value); } catch { /* a page from a file may keep nothing */ } };

  root.lang = kept("language") ?? ((navigator.language || "").toLowerCase().startsWith("zh") ? "zh" : "en");
  if (kept("theme")) root.dataset.theme = kept("theme");
  document.getElementById("language").addEventListener("click", () => {
    root.lang = root.lang === "zh" ? "en" : "zh";
    keep("language", root.lang);
  });
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    keep("theme", root.dataset.theme);
  });

  const articles = [...document.querySelectorAll("article")];
  const search = document.getElementById("search");
  const count = document.getElementById("count");
  const buttons = [...document.querySelectorAll("button[data-category]")];
  if (!search) return;
  let category = "";
  const filter = () => {
    const wanted = search.value.trim().toLowerCase();
    let shown = 0;
    for (const article of articles) {
      const fits = (!category || article.dataset.category === category) && (!wanted || article.textContent.toLowerCase().includes(wanted));
      article.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} / ${articles.length}`;
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.category === category));
  };
  for (const button of buttons) button.addEventListener("click", () => { category = button.dataset.category; filter(); });
  search.addEventListener("input", filter);
  filter();
})();
