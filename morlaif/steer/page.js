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
    for (const turn of turns) {
      const line = element("p", "turn");
      line.append(element("b", "", turn.role + " "), turn.content);
      article.append(line);
    }
    article.append(element("p", "answer", cells[i].text || "(nothing)"));
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

sliders.forEach((slider, k) => slider.addEventListener("input", () => { move(k, Number(slider.value)); show(); }));
show();
