/* What stands under a message beside Gradio's own buttons: editing a question, the variants of an answer, thumbs, tokens. Gradio's own
editing shows the entities that a question is made of, and its own retry has one variant. */
alpaca.under = (() => {
  "use strict";
  const { talk } = alpaca;

  function button(name, sign, label, press, pressed) {
    const made = document.createElement("button");
    made.className = name;
    made.textContent = sign;
    made.title = label;
    made.setAttribute("aria-label", label);
    if (pressed !== undefined) made.setAttribute("aria-pressed", pressed);
    made.addEventListener("click", press);
    return made;
  }

  function figure(answer) {
    if (!answer.tokens) return "";
    const { words } = alpaca, speed = answer.seconds > 0 && answer.tokens > 1 ? answer.tokens / answer.seconds : 0;
    const parts = [words.tokens.replace("{count}", answer.tokens.toLocaleString())];
    if (speed) parts.push(words.speed.replace("{speed}", speed.toFixed(speed < 10 ? 1 : 0)));
    if (answer.read) parts.push(words.read.replace("{count}", answer.read.toLocaleString()));
    return parts.join(" · ");
  }

  function ofQuestion(number) {
    return [button("edit", "✎", alpaca.words.edit, () => alpaca.editing(number, talk.open.turns[number].question))];
  }

  function votes(turn, number, pane, answer) {
    const { words } = alpaca, thumb = (name, sign) => button(name, sign, words[`vote_${name}`], () => talk.vote(number, pane, name), answer.vote === name);
    const thumbs = [thumb("up", "👍"), thumb("down", "👎")];
    if (!answer.text.trim()) return [];
    const rivals = turn.variants[turn.at];
    if (talk.names().length < 2 || rivals.length < 2 || !rivals.every((each) => each.text.trim())) return thumbs;
    const side = ["first", "second"][pane];
    return [button("better", words.better, words.better_info, () => talk.vote(number, pane, side), turn[`better${turn.at}`] === side), ...thumbs];
  }

  function ofAnswer(turn, number, pane, answer) {
    const { words } = alpaca, parts = [];
    if (turn.variants.length > 1) {
      const group = document.createElement("span"), place = document.createElement("span");
      group.className = "variants";
      place.textContent = `${turn.at + 1} / ${turn.variants.length}`;
      group.append(button("before", "‹", words.before, () => talk.turnTo(number, turn.at - 1)), place, button("after", "›", words.after, () => talk.turnTo(number, turn.at + 1)));
      parts.push(group);
    }
    if (alpaca.votes) parts.push(...votes(turn, number, pane, answer));
    const figures = document.createElement("span");
    figures.className = "figures";
    figures.textContent = figure(answer);
    parts.push(figures);
    return parts;
  }

  function place(buttons, parts, key) {
    let under = buttons.querySelector(":scope > .under");
    if (under?.dataset.key === key) return;
    if (!under) {
      under = document.createElement("div");
      under.className = "under";
      buttons.append(under);
    }
    under.dataset.key = key;
    under.replaceChildren(...parts());
  }

  /* Gradio puts a button without a name into the one that folds a thought, says nowhere whether it is folded, and calls suggestions a list
     that has no items. */
  function name() {
    document.querySelector("#panes .examples[role=list]")?.setAttribute("role", "group");
    for (const fold of document.querySelectorAll("#panes .thought-group > [role=button]")) {
      fold.setAttribute("aria-expanded", fold.classList.contains("expanded"));
      for (const arrow of fold.querySelectorAll("button:enabled")) Object.assign(arrow, { disabled: true, ariaHidden: "true" });
    }
  }

  /* Every turn is a question and an answer: the rows alternate. */
  function decorate() {
    name();
    for (const pane of [0, 1]) {
      document.querySelectorAll(`#pane-${pane} .message-buttons`).forEach((buttons, row) => {
        const number = Math.floor(row / 2), turn = talk.open.turns[number];
        if (!turn) return;
        if (row % 2 === 0) return place(buttons, () => ofQuestion(number), `${talk.open.id} ${number}`);
        const answer = talk.answerOf(turn, pane), isWriting = !answer || answer.state === "writing";
        buttons.classList.toggle("waits", isWriting);
        place(buttons, () => (isWriting ? [] : ofAnswer(turn, number, pane, answer)), JSON.stringify([talk.open.id, number, turn.at, turn.variants.length, isWriting, answer?.tokens, answer?.seconds, answer?.vote, answer?.state, (turn.variants[turn.at] ?? []).map((each) => Boolean(each.text)), turn[`better${turn.at}`], alpaca.votes, talk.names().length]));
      });
    }
  }

  let due = false;
  return {
    watch(part) {
      new MutationObserver(() => {
        if (due) return;
        due = true;
        setTimeout(() => { due = false; decorate(); });
      }).observe(part, { childList: true, subtree: true, attributeFilter: ["class"] });
    },
    decorate,
  };
})();
