/* What Gradio's parts are to show of the settings: those of the open conversation, and the model's own where the user chose none. */
alpaca.offered = () => {
  "use strict";
  alpaca.label();
  const names = alpaca.talk.names(), model = (alpaca.known ?? []).find((each) => each.name === names[0]);
  const chosen = alpaca.talk.open.settings, defaults = { ...model?.defaults, history_turns: alpaca.historyTurns };
  const update = (changes) => ({ __type__: "update", ...changes });
  const sliders = Object.keys(alpaca.sliders).map((name) => {
    const highest = (name === "max_new_tokens" && model?.contextLength) || alpaca.sliders[name], value = chosen[name] ?? defaults[name];
    return update({ interactive: Boolean(model), maximum: Math.max(highest, defaults[name] ?? 0), ...(value === undefined ? {} : { value }) });
  });
  const panes = [0, 1].map((pane) => update({
    visible: pane < Math.max(1, names.length), label: names[pane] ?? null, show_label: names.length > 1,
    placeholder: `# 🦙\n\n${alpaca.words.welcome}`,
    examples: pane ? null : alpaca.suggestions.map((text) => ({ text })),
  }));
  return [update({ value: chosen.system ?? (alpaca.system || model?.systemPrompt || ""), interactive: Boolean(model) }), ...sliders, ...panes];
};
/* A press on a suggestion asks it. Gradio tells of it to a server only. */
document.addEventListener("click", (event) => {
  const text = event.target.closest?.("#panes .example")?.querySelector(".example-text")?.textContent.trim();
  if (text) alpaca.talk.ask(text);
});
/* Opens or closes the conversations on the left, or the settings on the right; without `open`, turns them. */
alpaca.drawer = (side, open) => {
  const drawer = document.querySelector(side === "left" ? ".sidebar:not(.right)" : ".sidebar.right");
  if (drawer && drawer.classList.contains("open") !== open) drawer.querySelector(".toggle-button").click();
};
/* The newest into sight: under a new question, and in a conversation that was opened. */
alpaca.down = () => requestAnimationFrame(() => setTimeout(() => {
  for (const wrap of document.querySelectorAll("#panes .bubble-wrap")) wrap.scrollTo(0, wrap.scrollHeight);
}, 60));
/* What Gradio gives a name of its own in English, or none; and what is said in the question's field where the screen is touched: there is no
   Shift, and no room to tell of one. Gradio puts its parts in place in its own time: those that are not there yet are named when they are. */
alpaca.label = () => {
  const { words } = alpaca, isTouched = matchMedia("(pointer: coarse)").matches;
  const names = [
    [".sidebar:not(.right) .toggle-button", "aria-label", words.toggle_left],
    [".sidebar.right .toggle-button", "aria-label", words.toggle_right],
    ["#clip", "aria-label", words.attach],
    ...(isTouched ? [["#question textarea", "placeholder", words.question_here]] : []),
  ];
  const parts = names.map(([selector]) => document.querySelector(selector));
  parts.forEach((part, number) => part?.setAttribute(...names[number].slice(1)));
  if (parts.includes(null)) setTimeout(alpaca.label, 100);
};
