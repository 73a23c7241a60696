// Elements are created, never parsed: a run's name is text whatever it contains.

const byId = (id) => document.getElementById(id);

function make(namespace, tag, properties, children) {
  const node = namespace ? document.createElementNS(namespace, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.entries(value).forEach(([key, each]) => node.style.setProperty(key, each));
    else if (name === "checked" || name === "value" || name === "selected") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const el = (tag, properties = {}, ...children) => make(null, tag, properties, children);
const svg = (tag, properties = {}, ...children) => make("http://www.w3.org/2000/svg", tag, properties, children);

const fill = (id, ...children) => byId(id).replaceChildren(...children.flat(Infinity).filter(Boolean));

const say = (text) => {
  byId("announce").textContent = text;
};

// Plotly interprets a few tags in its labels: none may come from a name.
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

// Radio buttons that look like one control.
function segments(id, name, options, chosen, choose) {
  const legend = byId(id).querySelector("legend");
  const items = options.map(([value, words]) =>
    el(
      "label",
      {},
      el("input", {
        type: "radio",
        name,
        value,
        id: `${name}-${value}`,
        checked: value === chosen,
        onchange: () => choose(value),
      }),
      el("span", {}, words),
    ),
  );
  byId(id).replaceChildren(legend, ...items);
}

function options(id, pairs, chosen) {
  const shown = pairs.map(([value, words]) => el("option", { value, selected: value === chosen }, words));
  byId(id).replaceChildren(...shown);
  byId(id).value = chosen;
}

// columns: {name, unit, key, left, sort, hint}; cells: a node or text each. `sort` = {by, down, set}.
function table({ caption, columns, rows, sort = null, rowHead = 0 }) {
  const heads = columns.map((column) => headCell(column, sort));
  const body = rows.map((row) =>
    el(
      "tr",
      { class: row.class, "aria-selected": row.selected },
      row.cells.map((cell, i) => {
        const kind = columns[i].left ? "left" : "right";
        return i === rowHead ? el("th", { scope: "row", class: kind }, cell) : el("td", { class: kind }, cell);
      }),
    ),
  );
  const made = el(
    "table",
    {},
    el("caption", { class: "unseen" }, caption),
    el("thead", {}, el("tr", {}, heads)),
    el("tbody", {}, body),
  );
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, made);
}

function headCell(column, sort) {
  const words = [column.name, column.unit && el("span", { class: "unit" }, `, ${column.unit}`)];
  const kind = column.left ? "left" : "right";
  if (sort === null || column.key === undefined)
    return el("th", { scope: "col", class: kind, title: column.hint }, words);
  const active = sort.by === column.key;
  const order = active ? (sort.down ? "descending" : "ascending") : "none";
  const button = el(
    "button",
    { type: "button", class: "sort", id: `sort-${sort.place}-${column.key}`, onclick: () => sort.set(column.key) },
    words,
    el("span", { class: "arrow", "aria-hidden": "true" }, active ? (sort.down ? " ↓" : " ↑") : ""),
  );
  return el("th", { scope: "col", class: kind, "aria-sort": order }, button);
}

const plusMinus = (middle, spread, digits) => [
  fixed(middle, digits),
  el("span", { class: "sd" }, Number.isFinite(spread) ? ` ± ${fixed(spread, digits)}` : ""),
];

const plusMinusText = (middle, spread, digits) =>
  `${fixed(middle, digits)}${Number.isFinite(spread) ? ` ± ${fixed(spread, digits)}` : ""}`;

// A group's line and marker as the plots draw them.
function swatch(look) {
  const dashes = { solid: "none", dash: "6 4", dot: "2 3", dashdot: "7 3 2 3" }[look.dash];
  return svg(
    "svg",
    { class: "swatch", viewBox: "0 0 28 12", width: 28, height: 12, "aria-hidden": "true" },
    svg("line", { x1: 1, x2: 27, y1: 6, y2: 6, stroke: look.color, "stroke-width": 2, "stroke-dasharray": dashes }),
    mark(look.symbol, 14, 6, look.color),
  );
}

function mark(symbol, x, y, color) {
  const at = (points) => points.map(([dx, dy]) => `${x + dx},${y + dy}`).join(" ");
  const shapes = {
    circle: () => svg("circle", { cx: x, cy: y, r: 3.6, fill: color }),
    square: () => svg("rect", { x: x - 3.3, y: y - 3.3, width: 6.6, height: 6.6, fill: color }),
    diamond: () =>
      svg("polygon", {
        points: at([
          [0, -4.6],
          [4.6, 0],
          [0, 4.6],
          [-4.6, 0],
        ]),
        fill: color,
      }),
    "triangle-up": () =>
      svg("polygon", {
        points: at([
          [0, -4.4],
          [4.4, 3.6],
          [-4.4, 3.6],
        ]),
        fill: color,
      }),
    "triangle-down": () =>
      svg("polygon", {
        points: at([
          [0, 4.4],
          [4.4, -3.6],
          [-4.4, -3.6],
        ]),
        fill: color,
      }),
  };
  return shapes[symbol]();
}
