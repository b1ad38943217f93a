/* The open conversation: asking, stopping, answers as they come, and how Gradio's chat windows are to show it. */
alpaca.talk = (() => {
  "use strict";
  const { book, markup } = alpaca;
  const REFRESH_MS = 80, SAVE_MS = 400, CURSOR = " ▍";
  /* More than any tokenizer makes of a token on average: what lies beyond, a model does not read. */
  const CHARACTERS_OF_A_TOKEN = 16;
  /* From the first moment the one that this tab had open: whatever part of the page is there first, it saves no empty one in its place. */
  let open = book.read(book.current()) ?? begun(), run = null, saving = null;

  function begun() {
    return { ...book.fresh(), settings: { ...book.settings() } };
  }

  /* ---- what is shown ---- */

  let due = null, cost = 0;
  /* Shows what is new: at once, or soon. A long conversation takes the browser longer, and is shown less often. */
  function changed(soon = false) {
    document.querySelector("#composer")?.classList.toggle("writing", run !== null);  // page.css shows send or stop by it
    if (soon && due) return;
    clearTimeout(due);
    due = setTimeout(() => {
      due = null;
      const from = performance.now();
      alpaca.render?.();
      requestAnimationFrame(() => requestAnimationFrame(() => { cost = performance.now() - from; }));
    }, soon ? Math.max(REFRESH_MS, 4 * cost) : 0);
  }

  const message = (role, text, metadata = null, options = null) => ({ role, metadata, options, content: [{ type: "text", text }] });
  const chosenAnswers = (turn) => turn.variants[turn.at] ?? [];
  /* A pane's answer to a turn: of its own model, or else the one that came in its place. */
  const answerOf = (turn, pane) => chosenAnswers(turn).find((answer) => answer.model === names()[pane]) ?? chosenAnswers(turn)[pane];

  const questions = new WeakMap(), answers = new WeakMap();
  function questionMessage(turn) {
    if (!questions.has(turn)) {
      const files = turn.files.map((file) => `📎 ${file.name}\n`).join("");
      questions.set(turn, message("user", markup.question(files + turn.question)));
    }
    return questions.get(turn);
  }

  function answerMessages(answer) {
    if (!answer) return [message("assistant", "—")];
    const key = JSON.stringify([answer.text.length, answer.state, answer.dropped, answer.left, answer.problem, answer.thought]);
    const known = answers.get(answer);
    if (known?.key === key) return known.messages;
    const { thought, said, isThinking } = markup.parts(answer.text), messages = [];
    const isWriting = answer.state === "writing";
    if (thought) {
      const metadata = { title: isThinking ? alpaca.words.thinking : alpaca.words.thought, status: isThinking && isWriting ? "pending" : "done" };
      if (answer.thought) metadata.duration = answer.thought;
      messages.push(message("assistant", markup.answer(thought), metadata));
    }
    const text = markup.answer(said.replace(/^\n+|\n+$/g, "")), remarks = remarksOn(answer);
    const shown = isWriting ? text + CURSOR : text.trim() || remarks.length || thought ? text : alpaca.words.empty;
    const options = ["cut", "stopped"].includes(answer.state) && said.trim() ? [{ value: "continue", label: alpaca.words.continue }] : null;
    messages.push(message("assistant", [shown, ...remarks].filter(Boolean).join("\n\n") || CURSOR, null, options));
    answers.set(answer, { key, messages });
    return messages;
  }

  /* Said about an answer, in place of one, or under it: no words of the model's. */
  function remarksOn(answer) {
    const { words } = alpaca, remarks = [];
    const dropped = (answer.dropped ?? 0) + 2 * (answer.left ?? 0);
    if (dropped) remarks.push(["plain", words.dropped.replace("{count}", dropped)]);
    if (answer.state === "stopped" || answer.state === "cut") remarks.push(["plain", words[answer.state]]);
    if (answer.state === "failed") {
      const said = (answer.over ? words.problem_over.replace("{over}", answer.over.toLocaleString()) : words[`problem_${answer.problem}`]) ?? answer.problem;
      remarks.push(["bad", said], ...(answer.detail ? [["detail", answer.detail]] : []));
    }
    return remarks.map(([kind, text]) => `<div class="note note-${kind}">${markup.question(text)}</div>`);
  }

  function panes() {
    return [0, 1].map((pane) => open.turns.flatMap((turn) => [questionMessage(turn), ...answerMessages(answerOf(turn, pane))]));
  }

  /* ---- asking ---- */

  /* The models to ask: of the chosen ones those that there are, at least one if there is any. */
  function names() {
    const known = (alpaca.known ?? []).map((model) => model.name);
    const wanted = (open.settings.models ?? []).filter((name) => known.includes(name));
    return wanted.length ? wanted : known.slice(0, alpaca.compares ? 2 : 1);
  }

  function asText({ question, files }) {
    const parts = files.map(({ name, text }) => {
      const fence = "`".repeat(Math.max(3, ...[...text.matchAll(/`+/g)].map(([ticks]) => ticks.length + 1)));
      return `${name}\n${fence}\n${text}\n${fence}`;
    });
    return [...parts, question].filter(Boolean).join("\n\n");
  }

  const said = (turn) => ({ question: asText(turn), answers: chosenAnswers(turn).map(({ model, text }) => ({ model, text: markup.parts(text).said })) });

  /* What travels: the question, and of what was said before the turns that the user wants along, as far as the models can read at all.
     Thoughts are not given back to a model. Returns the turns that were left out as well. */
  function request(turn, models, goesOn) {
    const { models: _, history_turns: turns, ...chosen } = open.settings, end = open.turns.indexOf(turn);
    const wanted = open.turns.slice(Math.max(0, end - (turns ?? alpaca.historyTurns)), end).map(said);
    const contexts = (alpaca.known ?? []).filter((model) => models.includes(model.name)).map((model) => model.contextLength ?? Infinity);
    let room = CHARACTERS_OF_A_TOKEN * Math.max(0, ...contexts) || Infinity, kept = wanted.length;
    while (kept > 0 && (room -= JSON.stringify(wanted[kept - 1]).length) >= 0) kept -= 1;
    const last = { question: asText(turn), answers: goesOn ? chosenAnswers(turn).map(({ model, text }) => ({ model, text })) : [] };
    return { body: { turns: [...wanted.slice(kept), last], models, chosen }, left: kept };
  }

  function start(turn, goesOn = false) {
    const blank = (model) => ({ model, text: "", state: "writing" });
    if (!goesOn) {
      turn.variants.push((names().length ? names() : [""]).map(blank));
      turn.at = turn.variants.length - 1;
    }
    const written = goesOn ? chosenAnswers(turn).filter((answer) => ["cut", "stopped"].includes(answer.state)) : chosenAnswers(turn);
    const { body, left } = request(turn, written.map((answer) => answer.model).filter(Boolean), goesOn);
    const before = written.map(({ tokens = 0, seconds = 0 }) => ({ tokens, seconds }));
    for (const answer of written) Object.assign(answer, { state: "writing", problem: "", detail: "", over: 0 });
    run = { turn, answers: written, before, left, connection: new AbortController(), since: performance.now() };
    open.updatedAt = Date.now();
    keep();
    changed();
    alpaca.down?.();
    receive(run, body);
  }

  /* What travels is text: half a character, as where an emoji was cut in its middle, is the replacement character to a model, and no JSON to
     a server. */
  const json = (body) => JSON.stringify(body, (_, value) => (typeof value === "string" ? value.toWellFormed() : value));

  async function receive(current, body) {
    let heard = false;
    try {
      const response = await fetch("/answers", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: json(body), signal: current.connection.signal,
      });
      if (response.status === 401) return fail(current, "login");
      if (!response.ok) return fail(current, response.status === 413 ? "large" : "page", (await response.json().catch(() => ({}))).detail);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        heard = true;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines) take(current, JSON.parse(line));
      }
      fail(current, "broken");  // what has come to its end by now did so by itself
    } catch (error) {
      if (run === current) fail(current, heard ? "broken" : "offline");
    } finally {
      if (run === current) run = null;
      save();
      changed();
    }
  }

  function take(current, news) {
    news.forEach(({ more, tokens, seconds, ...rest }, number) => {
      const answer = current.answers[number] ??= {}, before = current.before[number] ?? { tokens: 0, seconds: 0 };
      if (run !== current) return;  // stopped meanwhile
      if (!chosenAnswers(current.turn).includes(answer)) chosenAnswers(current.turn).push(answer);
      Object.assign(answer, rest, { text: (answer.text ?? "") + (more ?? "") });
      if (current.left && !answer.left) answer.left = current.left;
      if (tokens) answer.tokens = before.tokens + tokens;
      if (seconds) answer.seconds = before.seconds + seconds;
      if (!answer.thought && /^\s*<think>[^]*<\/think>/.test(answer.text)) answer.thought = Math.max(0.1, Math.round((performance.now() - current.since) / 100) / 10);
    });
    keep();
    changed(true);
  }

  function fail(current, problem, detail = "") {
    for (const answer of current.answers) if (answer.state === "writing") Object.assign(answer, { state: "failed", problem, detail });
    if (problem === "login") { save(); location.assign("/login"); }
  }

  /* In effect at once, whatever the network does: the engine is told by the connection that closes. */
  function stop() {
    if (!run) return;
    const current = run;
    run = null;
    for (const answer of current.answers) if (answer.state === "writing") answer.state = "stopped";
    current.connection.abort();
    save();
    changed();
  }

  /* ---- keeping ---- */

  function save() {
    clearTimeout(saving);
    saving = null;
    if (book.isRemoved(open.id)) return;
    book.save(open);
    book.open(open.id);
    alpaca.list?.();
  }
  const keep = () => { saving ??= setTimeout(save, SAVE_MS); };
  // What was being written is stopped before the browser breaks it off, which would be told as a failure.
  window.addEventListener("pagehide", () => {
    stop();
    if (saving) save();
  });

  function enter(conversation) {
    stop();
    if (saving) save();
    open = conversation;
    book.open(open.id);
    alpaca.list?.();
    alpaca.offer?.();
    changed();
    alpaca.down?.();
  }

  /* ---- votes, where the deployment keeps them ---- */

  /* What a model had before it when it answered. */
  function prompt(number, pane) {
    const system = open.settings.system ?? alpaca.system, messages = system?.trim() ? [{ role: "system", content: system }] : [];
    for (const turn of open.turns.slice(0, number)) {
      const text = markup.parts(answerOf(turn, pane)?.text ?? "").said;
      if (text.trim()) messages.push({ role: "user", content: asText(turn) }, { role: "assistant", content: text });
    }
    return [...messages, { role: "user", content: asText(open.turns[number]) }];
  }

  async function send(id, number, pane, given, verdict) {
    const body = { id, messages: prompt(number, pane), answers: given.map(({ model, text }) => ({ model, text: markup.parts(text).said })), verdict };
    const response = await fetch("/votes", { method: "POST", headers: { "Content-Type": "application/json" }, body: json(body) }).catch(() => null);
    return response?.status === 204;
  }

  const last = () => open.turns.at(-1);
  return {
    panes, names, stop, answerOf,
    get open() { return open; },
    get isWriting() { return run !== null; },
    /* Whether it was asked. */
    ask(question, files = []) {
      if (run || !(question.trim() || files.length)) return false;
      const turn = { question, files, variants: [], at: 0 };
      open.turns.push(turn);
      start(turn);
      return true;
    },
    again() { if (!run && last()) start(last()); },
    goOn() { if (!run && last()) start(last(), true); },
    /* A question put otherwise: what was said before it goes along into a conversation of its own, and nothing is lost. */
    branch(number, question) {
      if (run || !question.trim()) return false;
      const { files } = open.turns[number], copy = { ...book.fresh(), settings: { ...open.settings }, turns: structuredClone(open.turns.slice(0, number)) };
      enter(copy);
      return this.ask(question, files);
    },
    turnTo(number, variant) {
      const turn = open.turns[number];
      if (run?.turn === turn || !turn.variants[variant]) return;
      turn.at = variant;
      save();
      changed();
    },
    begin() { enter(begun()); },
    show(id) {
      const kept = book.read(id);
      if (kept) enter(kept);
      else alpaca.list?.();  // another tab removed it
    },
    remove(id) {
      book.remove(id);
      if (id === open.id) this.begin();
      else alpaca.list?.();
    },
    rename(id, title) {
      const conversation = id === open.id ? open : book.read(id);
      if (conversation && title.trim()) {
        Object.assign(conversation, { title: title.trim(), named: true });
        book.save(conversation);
      }
      alpaca.list?.();
    },
    /* A setting of this conversation, and of those that are begun from now on. */
    choose(name, value) {
      open.settings = { ...open.settings, [name]: value };
      book.keepSettings({ ...book.settings(), [name]: value });
      if (open.turns.length) save();
    },
    forget() {
      const { models } = open.settings;
      open.settings = models ? { models } : {};
      book.keepSettings(open.settings);
      if (open.turns.length) save();
    },
    /* A thumb for an answer, or, of two beside each other, the better one; the same again takes it back. Kept only once it has arrived. */
    async vote(number, pane, verdict) {
      const turn = open.turns[number], shown = [0, 1].map((each) => answerOf(turn, each)), isPair = verdict === "first" || verdict === "second";
      const about = isPair ? turn : shown[pane], key = isPair ? `better${turn.at}` : "vote", before = about[key];
      const next = before === verdict ? "none" : verdict, id = `${open.id}-${number}-${turn.at}${isPair ? "" : `-${pane}`}`;
      const arrived = await send(id, number, isPair ? 0 : pane, isPair ? shown : [shown[pane]], next);
      alpaca.trouble(arrived ? "" : alpaca.words.vote_lost);
      if (!arrived) return;
      about[key] = next === "none" ? undefined : next;
      save();
      alpaca.under.decorate();
    },
    touch() { save(); changed(); },
  };
})();
