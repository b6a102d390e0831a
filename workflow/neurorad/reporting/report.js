"use strict";
// Theme: the reader's choice goes before the system's.
const root = document.documentElement, toggle = document.getElementById("theme");
const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const nameTheme = () => { toggle.textContent = isDark() ? "Light page" : "Dark page"; };
try { const kept = localStorage.getItem("neurorad-theme"); if (kept) root.dataset.theme = kept; } catch { /* private window */ }
toggle.hidden = false;
nameTheme();
toggle.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("neurorad-theme", root.dataset.theme); } catch { /* private window */ }
  nameTheme();
});

// Downloads come from the page itself, so they work wherever the file was sent.
function save(name, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
async function picture(image) {
  const text = decodeURIComponent(image.src.slice(image.src.indexOf(",") + 1));
  return new Blob([text], { type: "image/svg+xml" });
}
function bitmap(image) {
  const canvas = document.createElement("canvas"), scale = 300 / 72 * 0.75;
  canvas.width = image.naturalWidth * scale;
  canvas.height = image.naturalHeight * scale;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise(done => canvas.toBlob(done, "image/png"));
}
function read(name) {
  const block = document.getElementById("rows-" + name);
  if (!block) return null;
  const { columns, data, more } = JSON.parse(block.textContent);
  const values = data.map(column => column.of ? column.at.map(i => i < 0 ? null : column.of[i]) : column);
  return { columns, more, rows: (values[0] || []).map((_, i) => values.map(column => column[i])) };
}
const cell = value => value === null ? "" : /[",\n\r]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value);
function csv(table) { return [table.columns, ...table.rows].map(row => row.map(cell).join(",")).join("\n") + "\n"; }

document.querySelectorAll("button[data-take]").forEach(button => {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const { take, of } = button.dataset, image = document.querySelector(`#${CSS.escape(of)} img`);
    if (take === "csv") save(of + ".csv", new Blob([csv(read(of))], { type: "text/csv" }));
    else save(`${of}.${take}`, await (take === "svg" ? picture : bitmap)(image));
  });
});

// The numbers of a figure: filters by what distinguishes its rows, estimates drawn beside their n and interval.
const SHOWN = 200, FEW = 40, FIRST = ["site", "cohort", "endpoint", "encoder", "method", "objective", "protocol", "metric",
  "variable", "stratum", "group", "quantity", "point", "level"];
const short = value => typeof value === "number" ? String(Number(value.toPrecision(4))) : value;
function make(tag, text, attributes = {}) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
  return node;
}
function interval(row, at, low, high) {
  const box = make("span", undefined, { class: "plot", "aria-hidden": "true" });
  const place = value => `${(100 * (value - low) / (high - low || 1)).toFixed(2)}%`;
  const zero = at.metric !== undefined && /difference|gain|excess/.test(row[at.metric]) ? 0 : 0.5;
  if (zero >= low && zero <= high) box.append(make("i", undefined, { class: "zero" }));
  if (row[at.ci_low] !== null && row[at.ci_high] !== null) box.append(make("i", undefined, { class: "span" }));
  box.append(make("i", undefined, { class: "dot" }));
  for (const mark of box.children) {
    if (mark.className === "zero") mark.style.left = place(zero);
    else if (mark.className === "dot") mark.style.left = place(row[at.value]);
    else { mark.style.left = place(row[at.ci_low]); mark.style.right = `calc(100% - ${place(row[at.ci_high])})`; }
  }
  return box;
}
function explore(details) {
  const name = details.dataset.of, table = read(name), at = Object.fromEntries(table.columns.map((c, i) => [c, i]));
  const estimates = ["value", "ci_low", "ci_high"].every(c => c in at);
  const kinds = FIRST.filter(c => c in at).map(c => [c, [...new Set(table.rows.map(row => row[at[c]]))]])
    .filter(([, values]) => values.length > 1 && values.length <= FEW);
  const distinct = c => new Set(table.rows.map(row => row[at[c]])).size;
  const hidden = new Set(["leakage", ...(estimates ? ["ci_low", "ci_high"] : []),
    ...("encoder" in at ? ["method", "objective", "seed"] : [])]);
  const columns = table.columns.filter(c => !hidden.has(c) && (c === "value" || c === "n" || distinct(c) > 1));
  const same = table.columns.filter(c => !hidden.has(c) && !columns.includes(c) && table.rows.length > 0
    && ![null, ""].includes(table.rows[0][at[c]])).map(c => `${c.replaceAll("_", " ")} ${short(table.rows[0][at[c]])}`);
  const chosen = {}, filters = make("div", undefined, { class: "filters" });
  const told = make("p", undefined, { class: "note", role: "status" });
  const scroll = make("div", undefined, { class: "scroll", tabindex: "0", role: "region", "aria-label": `Numbers of ${name}` });
  for (const [column, values] of kinds) {
    const select = make("select"), label = make("label", column.replaceAll("_", " ") + " ");
    select.append(make("option", "all", { value: "" }));
    values.forEach((value, i) => select.append(make("option", value === null || value === "" ? "none" : value, { value: i + 1 })));
    select.addEventListener("change", () => {
      chosen[column] = select.value ? [values[select.value - 1]] : null;
      draw();
    });
    label.append(select);
    filters.append(label);
  }
  function draw() {
    const kept = table.rows.filter(row => Object.entries(chosen).every(([c, only]) => !only || row[at[c]] === only[0]));
    const shown = kept.slice(0, SHOWN), numbers = kept.flatMap(row => ["value", "ci_low", "ci_high"].map(c => row[at[c]]))
      .filter(value => typeof value === "number");
    const low = Math.min(...numbers), high = Math.max(...numbers), lost = kept.filter(row => row[at.value] === null).length;
    told.textContent = `${kept.length} of ${table.rows.length} rows` + (kept.length > SHOWN ? `, the first ${SHOWN} shown` : "")
      + (estimates ? `; ${lost} not estimable` : "") + (table.more ? `; ${table.more} more in the CSV file` : "")
      + (estimates && numbers.length ? `. Drawn from ${short(low)} to ${short(high)}` : "")
      + (same.length ? `. Of all rows: ${same.join(", ")}.` : ".");
    const body = make("tbody"), head = make("tr"), grid = make("table", undefined, { class: "numbers" });
    const named = c => make("th", c.replaceAll("_", " "), { scope: "col" });
    head.append(...columns.filter(c => c !== "note").map(named));
    if (estimates) head.append(named("95 % CI"), named("drawn"));
    if (columns.includes("note")) head.append(named("note"));
    for (const row of shown) {
      const line = make("tr");
      for (const c of columns.filter(c => c !== "note")) {
        const value = row[at[c]], none = value === null;
        line.append(make("td", none ? (c === "value" && estimates ? "not estimable" : "–") : short(value),
          none ? { class: "missing" } : {}));
      }
      if (estimates) {
        const [value, from, to] = ["value", "ci_low", "ci_high"].map(c => row[at[c]]), picture = make("td");
        line.append(make("td", from === null || to === null ? "–" : `${short(from)} to ${short(to)}`));
        if (value !== null) {
          const n = at.n !== undefined && row[at.n] !== null ? `, n = ${row[at.n]}` : "";
          picture.title = `${short(value)}${from === null ? "" : ` (95 % CI ${short(from)} to ${short(to)})`}${n}`;
          picture.append(interval(row, at, low, high));
        }
        line.append(picture);
      }
      if (columns.includes("note")) line.append(make("td", row[at.note] ?? ""));
      body.append(line);
    }
    const top = make("thead");
    top.append(head);
    grid.append(top, body);
    scroll.replaceChildren(grid);
  }
  details.append(filters, told, scroll);
  draw();
}
document.querySelectorAll("details[data-of]").forEach(details => {
  details.hidden = false;
  details.addEventListener("toggle", () => { if (details.open && !details.dataset.filled) { details.dataset.filled = "1"; explore(details); } });
});
document.body.dataset.drawn = "1";
