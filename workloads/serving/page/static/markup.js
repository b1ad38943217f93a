/* Text for Gradio's chat window, which reads Markdown and lets harmless HTML through.

A question is shown as it was typed. In an answer Markdown works, while its HTML is shown instead of obeyed, its pictures are links, and
its diagrams are code: Gradio puts what stands in a diagram into the page as HTML, as it does with formulas. Whatever gets through all the
same, the Content-Security-Policy lets it load nothing; this is about showing what was written.

Characters are written as numeric entities of four digits, which nobody types: page.js undoes them in what is copied. */
alpaca.markup = (() => {
  "use strict";
  /* What code begins with. A tick behind a backslash begins none. `(?<![^\n])` is the beginning of a line, `(?![^\n])` its end. */
  const OPENING = /(?<![^\n]) {0,3}(?<fence>`{3,}(?=[^`\n]*(?![^\n]))|~{3,})[^\n]*(?![^\n])|(?<escaped>\\`)|(?<ticks>`+)/g;
  const DIAGRAM = /((?:(?<!`)`{3,}|(?<!~)~{3,})[ \t]*)mermaid\b/gi;
  /* Characters of code within a line. Each tick looks so far for the one that closes it, and no further. */
  const LONGEST_CODE = 400;
  /* An address in such brackets is Markdown's own way to write a link, and no tag. */
  const TAG = /<(?=[A-Za-z/!?])(?!https?:\/\/[^\s<>"'`]+>)/g;
  /* How a tag begins in code, where an entity would be shown as it is written: what is code to us may be none to Gradio, as in a list that
     ends before its fence. */
  const PARTED = "<\u200b";
  const PICTURE = /!(?=\[)/g;
  /* Between single dollars is a formula where no space stands inside, no digit behind and no Chinese within: else it is money. */
  const FORMULA = /(?<![\\$\w])\$(?![\s$])([^$\n\u3000-\u9fff\uff00-\uffef]{1,300}?)(?<![\s\\])\$(?![\d$])/g;
  const PLAIN = /[!-/:-@[-`{-~ \t\n]/g;

  const ticks = (count) => new RegExp(`(?<!\`)\`{${count}}(?!\`)`, "g");

  function closing(expression, text, from) {
    expression.lastIndex = from;
    return expression.exec(text);
  }

  /* Where code is, as pairs of places. In time that grows with the text. */
  function code(text) {
    const found = [];
    let opening, from = 0;
    while ((opening = closing(OPENING, text, from))) {
      from = opening.index + opening[0].length;
      const { fence, escaped, ticks: marks } = opening.groups;
      if (escaped) continue;
      if (marks) {
        const closed = closing(ticks(marks.length), text.slice(from, from + LONGEST_CODE), 0);
        // In one line and one cell of a table: beyond, Markdown may see something else in it.
        if (closed && !/[\n|]/.test(text.slice(from, from + closed.index))) {
          from += closed.index + closed[0].length;
          found.push([opening.index, from]);
        }
        continue;
      }
      const closed = closing(new RegExp(`(?<![^\\n]) {0,3}${fence[0]}{${fence.length},}[ \\t]*(?![^\\n])`, "g"), text, from);
      found.push([opening.index, closed ? closed.index + closed[0].length : text.length]);
      if (!closed) break;  // still being written
      from = found.at(-1)[1];
    }
    return found;
  }

  const outside = (text) => text.replace(TAG, "&#0060;").replace(PICTURE, "&#0033;").replace(FORMULA, "\\($1\\)");

  return {
    /* Every character as it is; one paragraph, in which the style keeps spaces and line breaks. */
    question: (text) => text.replace(/\r\n/g, "\n").replace(PLAIN, (mark) => `&#${String(mark.charCodeAt(0)).padStart(4, "0")};`),

    /* Markdown without HTML, pictures and diagrams. */
    answer(written) {
      const text = written.replace(DIAGRAM, "$1text"), parts = [];
      let end = 0;
      for (const [start, stop] of code(text)) {
        parts.push(outside(text.slice(end, start)), text.slice(start, stop).replace(TAG, PARTED));
        end = stop;
      }
      return [...parts, outside(text.slice(end))].join("");
    },

    /* What a model thought before it spoke, and what it said. Where a template has opened the thought, only its end is in the text. */
    parts(text) {
      const open = /^\s*<think>\n?/.exec(text), close = /<\/think>\n*/.exec(text);
      if (!open && !(close && /^<\/think>[ \t]*(\n|$)/m.test(text) && !text.slice(0, close.index).includes("`"))) return { said: text };
      const start = open ? open[0].length : 0;
      if (!close) return { thought: text.slice(start), said: "", isThinking: true };
      return { thought: text.slice(start, close.index).trim(), said: text.slice(close.index + close[0].length) };
    },
  };
})();
