/* The conversations that this browser keeps, each under a key of its own, so that two tabs do not overwrite each other's; and the settings
that the user chose, for the next conversation or for one. */
alpaca.book = (() => {
  "use strict";
  const PREFIX = "literary-alpaca/conversation/", CURRENT = "literary-alpaca/current", SETTINGS = "literary-alpaca/settings";
  const TITLE_LENGTH = 40;

  const removed = new Set();  // here, in this tab: what is still being written of one is not kept anew

  const parsed = (text) => {
    try { return JSON.parse(text); } catch { return null; }
  };

  /* As it was kept by this version or by the one before, which knew one answer of each model; null for anything else. What was being
     written when the page was left was stopped. */
  function upgraded(kept) {
    if (!kept || typeof kept.id !== "string" || !Array.isArray(kept.turns)) return null;
    const turns = kept.turns.filter((turn) => typeof turn?.question === "string").map(({ answers, ...turn }) => {
      const variants = Array.isArray(turn.variants) ? turn.variants : answers?.length ? [answers] : [];
      for (const answer of variants.flat()) if (answer.state === "writing") answer.state = "stopped";
      return { files: [], ...turn, variants, at: Math.min(turn.at ?? 0, Math.max(0, variants.length - 1)) };
    });
    return { settings: {}, title: "", updatedAt: 0, ...kept, turns };
  }

  const keys = () => Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
  const read = (id) => upgraded(parsed(localStorage.getItem(PREFIX + id)));
  const all = () => keys().map((key) => read(key.slice(PREFIX.length))).filter(Boolean).sort((one, other) => other.updatedAt - one.updatedAt);

  function save(conversation) {
    if (!conversation.turns.length) return;
    if (!conversation.named) conversation.title = titleOf(conversation);
    const text = JSON.stringify(conversation);
    for (;;) {
      try { return localStorage.setItem(PREFIX + conversation.id, text); } catch {
        // Full: the oldest goes. One that does not fit even alone stays on the page, and is not kept.
        const oldest = all().filter((other) => other.id !== conversation.id).pop();
        if (!oldest) return;
        localStorage.removeItem(PREFIX + oldest.id);
      }
    }
  }

  const titleOf = ({ turns }) => [...turns[0].question.trim().replace(/\s+/g, " ")].slice(0, TITLE_LENGTH).join("");
  const texts = ({ title, turns }) => [title, ...turns.flatMap((turn) => [turn.question, ...turn.variants.flat().map((answer) => answer.text)])];

  return {
    all, read, save,
    isOurs: (key) => key === null || key.startsWith(PREFIX),
    fresh: () => ({ id: crypto.randomUUID?.() ?? Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join(""), title: "", updatedAt: Date.now(), settings: {}, turns: [] }),
    remove(id) {
      removed.add(id);
      localStorage.removeItem(PREFIX + id);
    },
    isRemoved: (id) => removed.has(id),
    /* Those that have every word somewhere. */
    search(written) {
      const wanted = written.toLowerCase().split(/\s+/).filter(Boolean);
      return all().filter((conversation) => {
        const text = texts(conversation).join("\n").toLowerCase();
        return wanted.every((word) => text.includes(word));
      });
    },
    /* Of this tab. */
    current: () => sessionStorage.getItem(CURRENT),
    open: (id) => sessionStorage.setItem(CURRENT, id),
    settings: () => parsed(localStorage.getItem(SETTINGS)) || {},
    keepSettings: (settings) => localStorage.setItem(SETTINGS, JSON.stringify(settings)),

    markdown(conversation) {
      const lines = [`# ${conversation.title}`];
      for (const turn of conversation.turns) {
        lines.push(`## ${alpaca.words.question}`, ...turn.files.map((file) => `📎 ${file.name}`), turn.question);
        for (const answer of turn.variants[turn.at] ?? []) lines.push(`## ${answer.model}`, answer.text.trim());
      }
      return lines.join("\n\n") + "\n";
    },
    json: (conversation) => JSON.stringify(conversation, null, 2) + "\n",
  };
})();
