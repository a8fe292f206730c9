"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const points = data.start.slice();
const sliders = data.names.map((_, k) => document.getElementById("w" + k));

const spoken = (name) => name.replaceAll("_", " ");
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);

function element(tag, kind, text) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
}

// One weight is moved; the others share what is left as they did before, in whole steps by largest remainders.
function move(k, value) {
  const others = points.map((_, j) => j).filter((j) => j !== k);
  const rest = data.steps - value;
  const before = others.reduce((sum, j) => sum + points[j], 0);
  const exact = others.map((j) => (before ? (rest * points[j]) / before : rest / others.length));
  const floors = exact.map(Math.floor);
  let left = rest - floors.reduce((a, b) => a + b, 0);
  const order = others.map((_, i) => i).sort((a, b) => exact[b] - floors[b] - (exact[a] - floors[a]) || a - b);
  for (const i of order) if (left-- > 0) floors[i] += 1;
  others.forEach((j, i) => { points[j] = floors[i]; });
  points[k] = value;
}

function prompt(turns) {
  return turns.map((turn) => {
    const line = element("p", "turn");
    line.append(element("b", "", turn.role + " "), turn.content);
    return line;
  });
}

function show() {
  const cells = data.cells[points.join(",")];
  data.names.forEach((name, k) => {
    sliders[k].value = points[k];
    const share = ((100 * points[k]) / data.steps).toFixed(0) + " %";
    sliders[k].setAttribute("aria-valuetext", share);
    document.getElementById("o" + k).textContent = share;
    const scores = cells.filter((cell) => cell.scores).map((cell) => cell.scores[k]);
    const mean = scores.reduce((a, b) => a + b, 0) / scores.length;
    document.getElementById("m" + k).textContent = scores.length ? "score " + signed(mean) : "";
  });
  const main = document.getElementById("answers");
  main.replaceChildren(...data.prompts.map((turns, i) => {
    const article = element("article");
    article.append(...prompt(turns), element("p", "answer", cells[i].text || "(nothing)"));
    if (cells[i].scores) {
      const list = element("ul", "scores");
      data.names.forEach((name, k) => {
        const item = element("li", "score", spoken(name) + " ");
        item.append(element("b", "", signed(cells[i].scores[k])));
        list.append(item);
      });
      article.append(list);
    }
    return article;
  }));
}

// --- choosing: two answers to a prompt, at weights that are not shown ------------------------------------------------

const choices = [];
let saved = 0;

const shares = (key) =>
  Object.fromEntries(key.split(",").map((part, k) => [data.names[k], Number(part) / data.steps]));
const named = (scores) => scores && Object.fromEntries(scores.map((value, k) => [data.names[k], value]));

// A line of the file that `morlaif steer choices=` reads.
function row(i, keys, liked) {
  const answers = keys.map((key) => {
    const cell = data.cells[key][i];
    return { weights: shares(key), text: cell.text, scores: named(cell.scores) };
  });
  return { messages: data.prompts[i], answers, liked };
}

// A prompt, and two points whose answers to it differ; of all such, one by chance.
function drawn(random) {
  const keys = Object.keys(data.cells);
  const open = data.prompts.map((_, i) => i).filter((i) => new Set(keys.map((key) => data.cells[key][i].text)).size > 1);
  if (!open.length) return null;
  const among = (list) => list[Math.floor(random() * list.length)];
  const i = among(open);
  const first = among(keys);
  const others = keys.filter((key) => data.cells[key][i].text !== data.cells[first][i].text);
  return [i, [first, among(others)]];
}

function ask() {
  const main = document.getElementById("answers");
  const next = drawn(Math.random);
  document.getElementById("count").textContent =
    choices.length === 1 ? "1 choice" : choices.length + " choices";
  document.getElementById("save").disabled = !choices.length;
  if (!next) {
    main.replaceChildren(element("p", "notice", "All weights have the same answers: there is nothing to choose."));
    return;
  }
  const [i, keys] = next;
  const article = element("article");
  const pair = element("div", "pair");
  keys.forEach((key, side) => {
    const one = element("div", "side");
    const button = element("button", "", "This one");
    button.type = "button";
    button.addEventListener("click", () => { choices.push(row(i, keys, side)); ask(); });
    one.append(element("p", "answer", data.cells[key][i].text || "(nothing)"), button);
    pair.append(one);
  });
  const skip = element("button", "plain", "Neither");
  skip.type = "button";
  skip.addEventListener("click", ask);
  article.append(...prompt(data.prompts[i]), pair, skip);
  main.replaceChildren(article);
}

function save() {
  const text = choices.map((one) => JSON.stringify(one) + "\n").join("");
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/jsonl" }));
  link.download = "choices.jsonl";
  link.click();
  URL.revokeObjectURL(link.href);
  saved = choices.length;
}

const choose = document.getElementById("choose");
choose.addEventListener("click", () => {
  const choosing = choose.getAttribute("aria-pressed") !== "true";
  choose.setAttribute("aria-pressed", choosing);
  choose.textContent = choosing ? "Back to the sliders" : "Choose between answers";
  document.body.classList.toggle("choosing", choosing);
  if (choosing) ask(); else show();
});
document.getElementById("save").addEventListener("click", save);
window.addEventListener("beforeunload", (event) => { if (saved < choices.length) event.preventDefault(); });
sliders.forEach((slider, k) => slider.addEventListener("input", () => { move(k, Number(slider.value)); show(); }));
show();
