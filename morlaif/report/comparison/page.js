"use strict";
// Draws the charts of the page as SVG from the JSON beside this script. No library, no request.
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const NS = "http://www.w3.org/2000/svg";
  const COLOURS = 8, DASHES = ["", "7 3", "2 3"];
  const percent = (x, d = 1) => (100 * x).toFixed(d) + " %";
  const number = (x, d = 2) => x.toFixed(d).replace("-", "−");
  const say = (x, format, d) => (format === "percent" ? percent(x, d ?? 1) : number(x, d ?? 2));
  const colour = (k) => `var(--s${k % COLOURS})`;
  const turn = (k) => Math.floor(k / COLOURS);

  // --- small helpers -------------------------------------------------------------------------------------------------
  function svg(tag, attributes = {}, ...children) {
    const made = document.createElementNS(NS, tag);
    for (const [key, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }
  function html(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }
  const text = (x, y, words, more = {}) => svg("text", { x, y, ...more }, words);
  const line = (x1, y1, x2, y2, more = {}) => svg("line", { x1, y1, x2, y2, ...more });
  const pen = document.createElement("canvas").getContext("2d");
  function wide(words, size = 12.5) {
    pen.font = `${size}px ${getComputedStyle(document.body).fontFamily}`;
    return pen.measureText(words).width;
  }
  function ticks(low, high, count) {
    const raw = (high - low) / Math.max(1, count), power = 10 ** Math.floor(Math.log10(raw || 1));
    const steps = [0.2, 0.5, 1, 2, 5, 10].map((k) => k * power);
    let step = steps.find((s) => s >= raw * (1 - 1e-9)), made = [];
    for (;;) { // one tick alone says nothing of the scale
      made = [];
      for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) made.push(k * step);
      if (made.length > 1 || step <= steps[0]) break;
      step = steps[steps.indexOf(step) - 1];
    }
    return [made, Math.max(0, -Math.floor(Math.log10(step) + 1e-9))];
  }
  const tickText = (x, format, digits) =>
    format === "percent" ? percent(x, Math.max(0, digits - 2)) : number(x, digits);
  function estimate(p, format) {
    let text = say(p.value, format);
    if (p.low !== null) text += ` (${say(p.low, format)} to ${say(p.high, format)})`;
    return text + (p.n ? `, n = ${p.n.toLocaleString("en")}` : "");
  }
  function range(values, mark, bounds = [null, null]) {
    const known = values.concat(mark === null ? [] : [mark]);
    let low = Math.min(...known), high = Math.max(...known);
    const air = (high - low || 1) * 0.05;
    return [bounds[0] ?? low - air, bounds[1] ?? high + air];
  }
  function marker(x, y, k, hollow, tip) {
    const style = { stroke: colour(k), fill: hollow ? "var(--raised)" : colour(k), "stroke-width": 1.8, "data-tip": tip };
    const shape = turn(k) % 3;
    if (shape === 1) return svg("rect", { x: x - 4.5, y: y - 4.5, width: 9, height: 9, ...style });
    if (shape === 2) return svg("path", { d: `M${x} ${y - 6}l6 6l-6 6l-6 -6z`, ...style });
    return svg("circle", { cx: x, cy: y, r: 4.6, ...style });
  }

  // --- one function for each kind of chart: (chart, width, hidden names) -> <svg> -------------------------------------
  const draw = {
    dots(chart, width, hidden) {
      const series = chart.series.filter((s) => !hidden.has(s.name));
      const references = chart.references.filter((r) => !hidden.has(r.name));
      const labels = Math.max(...chart.rows.map((r) => wide(r))) + 16, narrow = labels > 0.36 * width;
      const left = narrow ? 16 : labels, right = width - 16, band = Math.max(26, 12 + 11 * series.length) + (narrow ? 18 : 0);
      const values = chart.series.flatMap((s) => s.points.filter(Boolean).flatMap((p) => [p.low ?? p.value, p.high ?? p.value]))
        .concat(chart.references.flatMap((r) => r.spans.filter(Boolean).flat()));
      const [low, high] = range(values, chart.mark, chart.bounds);
      const x = (v) => left + ((v - low) / (high - low)) * (right - left);
      const height = band * chart.rows.length + 44, made = svg("svg", { width, height });
      const bottom = height - 40, [at, digits] = ticks(low, high, narrow ? 4 : 7);
      for (const v of at) {
        made.append(line(x(v), 4, x(v), bottom, { class: "grid" }));
        made.append(text(x(v), bottom + 16, tickText(v, chart.format, digits), { class: "tick", "text-anchor": "middle" }));
      }
      if (chart.mark !== null) made.append(line(x(chart.mark), 4, x(chart.mark), bottom, { class: "mark" }));
      made.append(text((left + right) / 2, height - 6, chart.axis, { class: "axis", "text-anchor": "middle" }));
      chart.rows.forEach((row, k) => {
        const top = 4 + band * k, middle = top + band / 2 + (narrow ? 8 : 0);
        if (narrow && k) made.append(line(0, top, width, top, { class: "grid" }));
        made.append(narrow ? text(2, top + 14, row, { class: "name" })
          : text(left - 12, middle + 4, row, { class: "name", "text-anchor": "end" }));
        references.forEach((r, i) => {
          if (!r.spans[k]) return;
          const [a, b] = r.spans[k], tip = `${row}\n${r.name}: ${a === b ? say(a, chart.format) : `${say(a, chart.format)} to ${say(b, chart.format)}`}`;
          made.append(svg("rect", { x: x(a) - (a === b ? 1.5 : 0), y: middle - 9, width: Math.max(3, x(b) - x(a)), height: 18,
            class: "published", opacity: a === b ? 0.85 : i ? 0.22 : 0.36, "data-tip": tip }));
        });
        series.forEach((s, i) => {
          const p = s.points[k];
          if (!p) return;
          const y = middle + (i - (series.length - 1) / 2) * 11, tip = `${row}\n${s.name}: ${estimate(p, chart.format)}`;
          if (p.low !== null) {
            made.append(line(x(p.low), y, x(p.high), y, { stroke: colour(s.colour), "stroke-width": 2.2 }));
            made.append(line(x(p.low), y, x(p.high), y, { stroke: "transparent", "stroke-width": 11, "data-tip": tip }));
          }
          made.append(marker(x(p.value), y, s.colour, s.hollow, tip));
        });
      });
      return made;
    },

    bars(chart, width) {
      const labels = Math.max(...chart.rows.map((r) => wide(r.label))) + 14, narrow = labels > 0.4 * width;
      const band = narrow ? 56 : 40, left = narrow ? 6 : labels, right = width - 8;
      const height = band * chart.rows.length + 8, made = svg("svg", { width, height });
      chart.rows.forEach((row, k) => {
        const top = 4 + band * k + (narrow ? 18 : 4);
        made.append(narrow ? text(left, top - 5, row.label, { class: "name" })
          : text(left - 12, top + 19, row.label, { class: "name", "text-anchor": "end" }));
        let from = left;
        for (const [part, fill] of [["win", "var(--blue)"], ["tie", "var(--grid)"], ["loss", "var(--orange)"]]) {
          const size = row[part] * (right - left), tip = `${row.label}\n${part}: ${percent(row[part])}${row.n ? `, n = ${row.n}` : ""}`;
          made.append(svg("rect", { x: from, y: top, width: Math.max(0, size), height: 28, fill, opacity: row.published ? 0.5 : 1, "data-tip": tip }));
          if (size > 46) made.append(text(from + size / 2, top + 19, `${part} ${percent(row[part], 0)}`, { class: part === "tie" || row.published ? "in" : "on", "text-anchor": "middle" }));
          from += size;
        }
      });
      return made;
    },

    heatmap(chart, width) {
      const columns = chart.columns.length, labels = Math.max(...chart.rows.map((r) => wide(r, 12))) + 10;
      const tail = 0.72 * wide(chart.columns[columns - 1], 12) + 4;
      const cell = Math.min(58, Math.max(30, (width - labels - tail) / (columns - 0.5))), row = Math.max(26, Math.min(40, cell));
      const head = 0.72 * Math.max(...chart.columns.map((c) => wide(c, 12))) + 16;
      const total = labels + cell * (columns - 0.5) + Math.max(tail, cell / 2), made = svg("svg", { width: Math.max(total, 10), height: head + row * chart.rows.length + 4 });
      chart.columns.forEach((name, j) => {
        const x = labels + cell * (j + 0.5), y = head - 6;
        made.append(text(x, y, name, { class: "name", transform: `rotate(-45 ${x} ${y})` }));
      });
      chart.rows.forEach((name, i) => {
        made.append(text(labels - 10, head + row * (i + 0.5) + 4, name, { class: "name", "text-anchor": "end" }));
        chart.cells[i].forEach((p, j) => {
          if (!p) return;
          const away = p.value - chart.centre, strength = 0.07 + 0.6 * Math.min(1, Math.abs(away) / chart.span);
          const x = labels + cell * j, y = head + row * i, tip = `${name} · ${chart.columns[j]}\n${estimate(p, chart.format)}`;
          made.append(svg("rect", { x, y, width: cell - 2, height: row - 2, fill: away > 0 ? "var(--blue)" : "var(--orange)", opacity: strength, "data-tip": tip }));
          const shown = chart.format === "percent" ? (100 * p.value).toFixed(0) : number(p.value).replace(/^(−?)0\./, "$1.");
          made.append(text(x + cell / 2 - 1, y + row / 2 + 3, shown, { class: "cell", "text-anchor": "middle" }));
        });
      });
      return made;
    },

    lines(chart, width, hidden) {
      const widest = 70 + Math.max(...chart.panels.map((p) => wide(p.title, 12))); // no title runs into the next
      const columns = Math.max(1, Math.min(width < 520 ? 2 : chart.columns, chart.columns, Math.floor(width / widest))), rows = Math.ceil(chart.panels.length / columns);
      const each = width / columns, tall = columns > 1 && rows > 1 ? 138 : 190, made = svg("svg", { width, height: rows * tall + 22 });
      const shown = (panel) => panel.lines.filter((l) => !hidden.has(l.published ? "paper" : l.name));
      const ys = (panel) => panel.lines.flatMap((l) => l.y.concat(l.low ?? [], l.high ?? []));
      const all = chart.same_scale ? range(chart.panels.flatMap(ys), null) : null;
      chart.panels.forEach((panel, k) => {
        const x0 = (k % columns) * each, y0 = Math.floor(k / columns) * tall;
        const left = x0 + (chart.format === "percent" ? 46 : 40), right = x0 + each - 14, top = y0 + 22, bottom = y0 + tall - 22;
        const xs = panel.lines.flatMap((l) => l.x), [xl, xh] = chart.integers ? [Math.min(...xs), Math.max(...xs)] : range(xs, null), [yl, yh] = all ?? range(ys(panel), panel.mark);
        const x = (v) => left + ((v - xl) / (xh - xl || 1)) * (right - left), y = (v) => bottom - ((v - yl) / (yh - yl)) * (bottom - top);
        made.append(text(left, y0 + 14, panel.title, { class: "title" }));
        const [yt, digits] = ticks(yl, yh, columns > 1 ? 3 : 4);
        for (const v of yt) {
          made.append(line(left, y(v), right, y(v), { class: "grid" }));
          made.append(text(left - 6, y(v) + 4, tickText(v, chart.format, digits), { class: "tick", "text-anchor": "end" }));
        }
        const [xt, xd] = ticks(xl, xh, columns > 1 ? 3 : 7);
        for (const v of xt) if (!chart.integers || Number.isInteger(v)) made.append(text(x(v), bottom + 15, number(v, chart.integers ? 0 : xd), { class: "tick", "text-anchor": "middle" }));
        if (panel.mark !== null) made.append(line(left, y(panel.mark), right, y(panel.mark), { class: "mark" }));
        for (const l of shown(panel)) {
          const path = l.x.map((v, i) => `${i ? "L" : "M"}${x(v).toFixed(1)} ${y(l.y[i]).toFixed(1)}`).join("");
          if (l.marked && l.low && l.high) {
            l.x.forEach((v, i) => made.append(line(x(v), y(l.low[i]), x(v), y(l.high[i]), { stroke: colour(l.colour), "stroke-width": 1.8, opacity: 0.7 })));
          } else if (l.low && l.high) {
            const back = l.x.map((v, i) => `L${x(v).toFixed(1)} ${y(l.low[i]).toFixed(1)}`).reverse().join("");
            const up = l.x.map((v, i) => `${i ? "L" : "M"}${x(v).toFixed(1)} ${y(l.high[i]).toFixed(1)}`).join("");
            made.append(svg("path", { d: up + back + "z", fill: colour(l.colour), opacity: 0.13 }));
          }
          made.append(svg("path", l.published ? { d: path, class: "paper" } : { d: path, fill: "none", stroke: colour(l.colour), "stroke-width": 1.8, "stroke-dasharray": DASHES[turn(l.colour) % 3] || null }));
          if (l.marked) l.x.forEach((v, i) => made.append(marker(x(v), y(l.y[i]), l.colour, false, "")));
        }
        let above = -Infinity; // names of the paper's lines, from the top down, none on another
        for (const l of shown(panel).filter((l) => l.published).sort((a, b) => b.y[b.y.length - 1] - a.y[a.y.length - 1])) {
          above = Math.max(above + 12, y(l.y[l.y.length - 1]) - 4);
          made.append(text(right, above, l.name.replace("paper, ", ""), { class: "tick", "text-anchor": "end" }));
        }
        const cross = line(0, top, 0, bottom, { class: "cross", visibility: "hidden" });
        const sheet = svg("rect", { x: left, y: top, width: Math.max(1, right - left), height: bottom - top, fill: "transparent" });
        sheet.addEventListener("pointermove", (event) => {
          const at = xl + ((event.clientX - sheet.getBoundingClientRect().left) / (right - left)) * (xh - xl);
          const grid = [...new Set(shown(panel).flatMap((l) => l.x))], near = grid.reduce((a, b) => (Math.abs(b - at) < Math.abs(a - at) ? b : a), grid[0]);
          const found = shown(panel).map((l) => [l.name, l.y[l.x.indexOf(near)]]).filter(([, v]) => v !== undefined).sort((a, b) => b[1] - a[1]);
          if (!found.length) return;
          for (const end of ["x1", "x2"]) cross.setAttribute(end, x(near));
          cross.setAttribute("visibility", "visible");
          tell(`${panel.title}, ${chart.x_axis} ${near}\n` + found.map(([n, v]) => `${say(v, chart.format)}  ${n}`).join("\n"), event);
        });
        sheet.addEventListener("pointerleave", () => { cross.setAttribute("visibility", "hidden"); tell(""); });
        made.append(cross, sheet);
      });
      made.append(text(width / 2, rows * tall + 16, chart.x_axis, { class: "axis", "text-anchor": "middle" }));
      return made;
    },

    scatter(chart, width, hidden) {
      const height = Math.min(460, Math.max(320, width * 0.62)), made = svg("svg", { width, height });
      const [a, b] = chart.shown, spots = chart.spots.filter((s) => !hidden.has(s.name));
      const [xl, xh] = range(chart.spots.map((s) => s.values[a]), null), [yl, yh] = range(chart.spots.map((s) => s.values[b]), null);
      const left = 50, right = width - 16, top = 10, bottom = height - 44;
      const x = (v) => left + ((v - xl) / (xh - xl)) * (right - left), y = (v) => bottom - ((v - yl) / (yh - yl)) * (bottom - top);
      const [xt, xd] = ticks(xl, xh, width < 520 ? 4 : 7), [yt, yd] = ticks(yl, yh, 5);
      for (const v of xt) made.append(line(x(v), top, x(v), bottom, { class: "grid" }), text(x(v), bottom + 16, number(v, xd), { class: "tick", "text-anchor": "middle" }));
      for (const v of yt) made.append(line(left, y(v), right, y(v), { class: "grid" }), text(left - 6, y(v) + 4, number(v, yd), { class: "tick", "text-anchor": "end" }));
      made.append(text((left + right) / 2, height - 6, chart.axes[a], { class: "axis", "text-anchor": "middle" }));
      made.append(text(12, (top + bottom) / 2, chart.axes[b], { class: "axis", "text-anchor": "middle", transform: `rotate(-90 12 ${(top + bottom) / 2})` }));
      const front = spots.filter((s) => !spots.some((o) => o !== s && o.values[a] >= s.values[a] && o.values[b] >= s.values[b] && (o.values[a] > s.values[a] || o.values[b] > s.values[b])))
        .sort((s, o) => s.values[a] - o.values[a]);
      made.append(svg("path", { d: front.map((s, i) => `${i ? "L" : "M"}${x(s.values[a])} ${y(s.values[b])}`).join(""), class: "paper" }));
      for (const s of spots) {
        made.append(marker(x(s.values[a]), y(s.values[b]), s.colour, false, `${s.name}\n${chart.axes[a]} ${number(s.values[a])}\n${chart.axes[b]} ${number(s.values[b])}`));
      }
      return made;
    },
  };

  // --- the hint that follows the pointer ------------------------------------------------------------------------------
  const hint = html("div", { class: "hint", hidden: "" });
  document.body.append(hint);
  function tell(words, event) {
    hint.hidden = !words;
    if (!words) return;
    const [head, ...rest] = words.split("\n");
    hint.replaceChildren(html("b", {}, head), ...rest.map((row) => html("div", {}, row)));
    const box = hint.getBoundingClientRect();
    hint.style.left = `${Math.max(6, Math.min(event.clientX + 14, innerWidth - box.width - 6))}px`;
    hint.style.top = `${Math.max(6, event.clientY - box.height - 12 < 6 ? event.clientY + 18 : event.clientY - box.height - 12)}px`;
  }
  document.addEventListener("pointerover", (event) => {
    if (event.target.dataset?.tip) tell(event.target.dataset.tip, event);
  });
  document.addEventListener("pointerout", (event) => { if (event.target.dataset?.tip) tell(""); });

  // --- what surrounds a chart -----------------------------------------------------------------------------------------
  function entries(chart) {
    if (chart.kind === "dots") {
      const own = chart.series.map((s) => [s.name, s.colour, s.hollow ? "hollow" : "dot"]);
      return own.concat(chart.references.map((r, i) => [r.name, i, "span"]));
    }
    if (chart.kind === "scatter") return chart.spots.map((s) => [s.name, s.colour, "dot"]);
    if (chart.kind !== "lines") return [];
    const own = new Map(chart.panels.flatMap((p) => p.lines).map((l) => [l.published ? "paper" : l.name, l.published ? [null, "dash"] : [l.colour, l.marked ? "dot" : "line"]]));
    return [...own].map(([name, [k, shape]]) => [name, k, shape]);
  }
  function swatch(k, shape) {
    const made = svg("svg", { width: 18, height: 12, "aria-hidden": "true" });
    if (shape === "span") made.append(svg("rect", { x: 1, y: 1, width: 16, height: 10, class: "published", opacity: k ? 0.22 : 0.36 }));
    else if (shape === "dash") made.append(line(0, 6, 18, 6, { class: "paper" }));
    else if (shape === "line") made.append(line(0, 6, 18, 6, { stroke: colour(k), "stroke-width": 2.4, "stroke-dasharray": DASHES[turn(k) % 3] || null }));
    else made.append(marker(9, 6, k, shape === "hollow", ""));
    return made;
  }
  function save(name, type, content) {
    const link = html("a", { href: URL.createObjectURL(new Blob([content], { type })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  function csv(table) {
    const cell = (x) => (x === null ? "" : /[",\n]/.test(String(x)) ? `"${String(x).replaceAll('"', '""')}"` : String(x));
    return [table.heads, ...table.rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";
  }
  function standalone(plot) {
    const drawn = plot.querySelector("svg"), copy = drawn.cloneNode(true), live = drawn.querySelectorAll("*");
    copy.setAttribute("xmlns", NS);
    copy.querySelectorAll("*").forEach((element, k) => {
      const style = getComputedStyle(live[k]);
      for (const key of ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-weight", "font-family"]) element.setAttribute(key, style.getPropertyValue(key));
      element.removeAttribute("class");
      element.removeAttribute("data-tip");
    });
    copy.insertBefore(svg("rect", { width: "100%", height: "100%", fill: getComputedStyle(document.body).getPropertyValue("--raised") }), copy.firstChild);
    return new XMLSerializer().serializeToString(copy);
  }
  function savePng(name, plot) {
    const drawn = plot.querySelector("svg"), image = new Image(), canvas = html("canvas");
    canvas.width = 3 * drawn.width.baseVal.value;
    canvas.height = 3 * drawn.height.baseVal.value;
    image.onload = () => {
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => save(name, "image/png", blob));
    };
    image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(standalone(plot));
  }
  function table(chart) {
    const cell = (x) => (x === null ? "–" : typeof x === "number" && !Number.isInteger(x) ? number(x, 3) : String(x));
    const head = html("thead", {}, html("tr", {}, ...chart.table.heads.map((h) => html("th", { scope: "col" }, h))));
    const body = html("tbody", {}, ...chart.table.rows.map((row) => html("tr", {}, ...row.map((x, k) => (k ? html("td", {}, cell(x)) : html("th", { scope: "row" }, cell(x)))))));
    return html("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${chart.title}: the data` }, html("table", {}, head, body));
  }

  for (const chart of charts) {
    const figure = document.getElementById(`fig-${chart.name}`), plot = figure.querySelector(".plot"), hidden = new Set();
    const redraw = () => {
      const width = Math.max(240, plot.clientWidth), made = draw[chart.kind](chart, width, hidden);
      made.setAttribute("role", "img");
      made.setAttribute("aria-label", `${chart.title}. ${chart.caption} The data are below.`);
      plot.replaceChildren(made);
    };
    const keys = entries(chart);
    if (keys.length > 1) {
      const legend = html("div", { class: "legend", role: "group", "aria-label": "Shown in the figure" });
      for (const [name, k, shape] of keys) {
        const button = html("button", { type: "button", "aria-pressed": "true" }, swatch(k, shape), name);
        button.addEventListener("click", () => {
          hidden.has(name) ? hidden.delete(name) : hidden.add(name);
          button.setAttribute("aria-pressed", String(!hidden.has(name)));
          redraw();
        });
        legend.append(button);
      }
      plot.before(legend);
    }
    if (chart.kind === "scatter") {
      const choose = (side, label) => {
        const select = html("select", {}, ...chart.axes.map((name, k) => html("option", k === chart.shown[side] ? { selected: "" } : {}, name)));
        select.addEventListener("change", () => { chart.shown[side] = select.selectedIndex; redraw(); });
        return html("label", {}, label + " ", select);
      };
      plot.before(html("div", { class: "legend" }, choose(0, "across"), choose(1, "up")));
    }
    const details = figure.querySelector("details");
    details.addEventListener("toggle", () => {
      if (!details.open || details.querySelector("table")) return;
      const button = (label, act) => { const b = html("button", { type: "button" }, label); b.addEventListener("click", act); return b; };
      details.append(
        html("div", { class: "legend" }, button("CSV", () => save(`${chart.name}.csv`, "text/csv", csv(chart.table))),
          button("SVG", () => save(`${chart.name}.svg`, "image/svg+xml", standalone(plot))), button("PNG", () => savePng(`${chart.name}.png`, plot))),
        table(chart));
    });
    const ruler = html("div"); // as wide as the plot and without height: drawing does not change it, and is not called again
    plot.before(ruler);
    let before = 0;
    new ResizeObserver(() => {
      if (plot.clientWidth !== before) { before = plot.clientWidth; redraw(); }
    }).observe(ruler);
    redraw();
  }
})();
