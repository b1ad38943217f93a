/* Runs before Gradio does, on every page that it serves. */
(() => {
  "use strict";
  const COOKIE = "alpaca-language", THEME = "literary-alpaca/theme";
  const stored = (document.cookie.match(/(?:^|; )alpaca-language=(zh|en)/) || [])[1];

  // The server reads the choice from the cookie; Gradio, and what it says by itself, from the browser's language.
  if (stored) {
    const name = { zh: "zh-CN", en: "en" }[stored];
    Object.defineProperty(navigator, "language", { get: () => name });
    Object.defineProperty(navigator, "languages", { get: () => [name] });
  }
  const language = navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
  document.documentElement.lang = { zh: "zh-CN", en: "en" }[language];

  // Dark or light as the system has it, until somebody says otherwise.
  const system = window.matchMedia.bind(window);
  const theme = () => localStorage.getItem(THEME);
  window.matchMedia = (query) => {
    const list = system(query);
    if (!theme() || !/prefers-color-scheme/.test(query)) return list;
    return { matches: query.includes(theme()), media: query, addEventListener() {}, removeEventListener() {}, addListener() {}, removeListener() {} };
  };

  // Without HTTPS browsers have no clipboard, and the copy buttons would do nothing.
  const copied = (text) => text.replace(/\s*<div class="note [^]*$/, "").replace(/ ▍$/, "")
    .replace(/<\u200b/g, "<").replace(/&#(\d{4});/g, (_, code) => String.fromCharCode(Number(code)));
  const copy = async (text) => {
    const area = document.createElement("textarea");
    area.value = text;
    area.style.position = "fixed";
    area.style.opacity = "0";
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  };
  const write = navigator.clipboard ? navigator.clipboard.writeText.bind(navigator.clipboard) : copy;
  Object.defineProperty(navigator, "clipboard", { value: { writeText: (text) => write(copied(text)) } });

  document.addEventListener("copy", (event) => {
    const text = getSelection().toString();
    if (!text.includes("<\u200b")) return;
    event.clipboardData.setData("text/plain", copied(text));
    event.preventDefault();
  });

  // Esc stops the answer from anywhere on the page, unless a text is being composed in an input method.
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.isComposing) window.alpaca.talk.stop();
  });

  window.alpaca = {
    language,
    speak(other) {
      document.cookie = `${COOKIE}=${other}; path=/; max-age=31536000; samesite=lax`;
      location.reload();
    },
    shade() {
      const dark = !document.body.classList.contains("dark");
      localStorage.setItem(THEME, dark ? "dark" : "light");
      document.body.classList.toggle("dark", dark);
    },
  };
})();
