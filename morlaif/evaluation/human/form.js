"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const items = new Map(data.items.map((item) => [item.id, item]));
  const byId = (id) => document.getElementById(id);
  const store = `morlaif-rating-${data.form}`;
  let state = null; // {rater, started, at, answers: {item: {answer, seconds, comment, when}}}
  let order = [];
  let kept = true; // whether this browser keeps the answers
  let shownAt = 0;

  // --- each rater's own order: a generator of random numbers (mulberry32) seeded with the name and the form's seed ---

  function generator(text) {
    let h = 2166136261;
    for (const char of text) h = Math.imul(h ^ char.codePointAt(0), 16777619);
    return () => {
      h = (h + 0x6d2b79f5) | 0;
      let t = Math.imul(h ^ (h >>> 15), 1 | h);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  function orderOf(rater) {
    const random = generator(`${data.seed} ${data.form} ${rater.toLowerCase()}`);
    const ids = [...items.keys()];
    for (let i = ids.length - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [ids[i], ids[j]] = [ids[j], ids[i]];
    }
    // one prompt does not follow on itself, where there is another to put between
    const prompt = (id) => JSON.stringify(items.get(id).messages);
    for (let i = 1; i < ids.length; i++) {
      if (prompt(ids[i]) !== prompt(ids[i - 1])) continue;
      const other = ids.findIndex((id, j) => j > i && prompt(id) !== prompt(ids[i]));
      if (other > 0) [ids[i], ids[other]] = [ids[other], ids[i]];
    }
    return ids;
  }

  // --- what is kept between visits ---

  function load(rater) {
    try {
      return JSON.parse(localStorage.getItem(`${store}-${rater.toLowerCase()}`));
    } catch {
      return null;
    }
  }

  function keep() {
    try {
      localStorage.setItem(`${store}-${state.rater.toLowerCase()}`, JSON.stringify(state));
      localStorage.setItem(store, state.rater);
    } catch {
      kept = false;
    }
    byId("kept").className = kept ? "fine" : "fine warn";
    byId("kept").textContent = kept
      ? "Your answers are kept in this browser. Save them to a file when you are done, or at any time."
      : "This browser keeps nothing: save your answers to a file before you close the page.";
  }

  // --- views ---

  function show(view) {
    for (const id of ["start", "rate", "end"]) byId(id).hidden = id !== view;
    byId("foot").hidden = view === "start";
    byId("json").classList.toggle("main", view === "end");
    window.scrollTo(0, 0);
    shownAt = performance.now();
  }

  function fill(element, text) {
    element.textContent = text.trim() === "" ? "(an empty response)" : text;
    element.classList.toggle("none", text.trim() === "");
  }

  const NAMES = { user: "Person", assistant: "Assistant", system: "Setting" };

  function turn(message) {
    const line = document.createElement("p"), who = document.createElement("b"), text = document.createElement("span");
    line.className = "turn";
    who.textContent = NAMES[message.role] || message.role;
    text.textContent = message.content;
    line.append(who, text);
    return line;
  }

  const current = () => order[state.at];
  const mine = () => state.answers[current()] || (state.answers[current()] = { answer: null, seconds: 0, comment: "" });
  const given = () => order.filter((id) => state.answers[id] && state.answers[id].answer);

  function draw(focus = true) {
    if (state.at >= order.length) return finish();
    show("rate");
    const item = items.get(current()), answer = mine(), done = given().length;
    byId("h-rate").textContent = `Pair ${state.at + 1} of ${order.length}`;
    byId("done").textContent = `${done} answered`;
    byId("progress").value = done;
    byId("prompt").replaceChildren(...item.messages.map(turn));
    fill(byId("a"), item.a);
    fill(byId("b"), item.b);
    byId("comment").value = answer.comment;
    byId("more").open = answer.comment !== "";
    mark();
    byId("back").disabled = state.at === 0;
    keep();
    if (focus) byId("h-rate").focus({ preventScroll: true });
  }

  function mark() {
    for (const button of document.querySelectorAll("[data-answer]")) {
      button.setAttribute("aria-pressed", String(button.dataset.answer === mine().answer));
    }
    byId("next").textContent = mine().answer ? "Next →" : "Skip →";
  }

  function finish() {
    show("end");
    const done = given().length, left = order.length - done;
    byId("summary").textContent = left
      ? `${done} of ${order.length} pairs are answered. You can go back to those you left out, or save what you have.`
      : `All ${order.length} pairs are answered. Save the file and give it to whoever sent you this form. Thank you.`;
    keep();
    byId("h-end").focus({ preventScroll: true });
  }

  // --- what raters do ---

  function spend() {
    if (byId("rate").hidden) return;
    if (!document.hidden) mine().seconds += (performance.now() - shownAt) / 1000;
    shownAt = performance.now();
  }

  function move(step) {
    spend();
    state.at = Math.min(Math.max(state.at + step, 0), order.length);
    draw();
  }

  function choose(answer) {
    Object.assign(mine(), { answer, when: new Date().toISOString() });
    mark();
    move(1);
  }

  function back() {
    if (byId("end").hidden) return move(-1);
    // to the first pair that was left out, else to the last
    const open = order.findIndex((id) => !(state.answers[id] && state.answers[id].answer));
    state.at = open < 0 ? order.length - 1 : open;
    draw();
  }

  byId("who").addEventListener("submit", (event) => {
    event.preventDefault();
    const rater = byId("rater").value.trim().replace(/\s+/g, " ");
    if (!rater) {
      byId("rater").value = "";
      return byId("who").reportValidity();
    }
    state = load(rater) || { rater, started: new Date().toISOString(), at: 0, answers: {} };
    order = orderOf(rater);
    draw();
  });
  for (const button of document.querySelectorAll("[data-answer]")) {
    button.addEventListener("click", () => choose(button.dataset.answer));
  }
  byId("back").addEventListener("click", () => move(-1));
  byId("next").addEventListener("click", () => move(1));
  byId("return").addEventListener("click", back);
  byId("comment").addEventListener("input", () => {
    mine().comment = byId("comment").value;
    keep();
  });
  document.addEventListener("visibilitychange", () => {
    if (!state || byId("rate").hidden) return;
    if (document.hidden) mine().seconds += (performance.now() - shownAt) / 1000;
    shownAt = performance.now();
    keep();
  });
  document.addEventListener("keydown", (event) => {
    if (!state || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.closest("textarea, input")) return;
    const key = event.key;
    if (key === "Backspace" || key === "ArrowLeft") {
      event.preventDefault();
      return back();
    }
    if (byId("rate").hidden) return;
    if ("123".includes(key)) return choose(["a", "tie", "b"][Number(key) - 1]);
    const onControl = event.target.closest("button, summary");
    if ((key === "Enter" && !onControl) || key === "ArrowRight") move(1);
  });

  // --- files ---

  function answers() {
    return given().map((id) => {
      const { answer, seconds, comment, when } = state.answers[id];
      return { item: id, answer, seconds: Math.round(seconds * 10) / 10, comment, when };
    });
  }

  const asJson = () =>
    JSON.stringify({ form: data.form, rater: state.rater, started: state.started, answers: answers() }, null, 1);

  function asCsv() {
    // a spreadsheet would run a text that begins like a formula: an apostrophe before it, which the import takes off
    const inert = (text) => (/^'*[=+\-@\t\r\n＝＋－＠]/.test(text) ? `'${text}` : text);
    const quote = (value) => `"${inert(String(value)).replaceAll('"', '""')}"`;
    const rows = answers().map((row) => [data.form, state.rater, row.item, row.answer, row.seconds, row.comment, row.when]);
    const heads = ["form", "rater", "item", "answer", "seconds", "comment", "when"];
    return [heads, ...rows].map((row) => row.map(quote).join(",") + "\r\n").join("");
  }

  function save(text, type, ending) {
    const link = document.createElement("a");
    const who = state.rater.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "rater";
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = `answers-${who}-${data.form.slice(0, 6)}.${ending}`;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  byId("json").addEventListener("click", () => { spend(); save(asJson(), "application/json", "json"); });
  byId("csv").addEventListener("click", () => { spend(); save(asCsv(), "text/csv", "csv"); });

  try {
    byId("rater").value = localStorage.getItem(store) || "";
  } catch {
    kept = false;
  }
})();
