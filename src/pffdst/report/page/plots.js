// Drawing with plotly: one look for all, only what is on the screen, and a keyboard cursor.

const waiting = new Map(); // plots that are not on the screen yet: how to draw them
const drawn = new Set();

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const isPaper = () => document.documentElement.classList.contains("paper");
const isNarrow = () => !isPaper() && window.matchMedia("(max-width: 700px)").matches;

function faded(color, opacity) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
  return `rgba(${r},${g},${b},${opacity})`;
}

function axis(title, more = {}) {
  return {
    title: { text: title, standoff: 8, font: { size: 12.5, color: css("--quiet") } },
    gridcolor: css("--grid"),
    zeroline: false,
    linecolor: css("--line"),
    tickfont: { size: 12, color: css("--quiet") },
    automargin: true,
    ticks: "",
    ...more,
  };
}

function layoutOf(more = {}) {
  return {
    font: { family: css("--font"), size: 13, color: css("--ink") },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 46, r: 16, t: 8, b: 40 },
    showlegend: false,
    hovermode: "closest",
    dragmode: isNarrow() ? false : "zoom",
    uirevision: "keep",
    hoverlabel: {
      bgcolor: css("--raised"),
      bordercolor: css("--line"),
      font: { family: css("--font"), size: 12.5, color: css("--ink") },
      align: "left",
      namelength: -1,
    },
    modebar: { orientation: "v" },
    ...more,
  };
}

// A linear axis uses one unit, given in its title: the ticks are plain numbers at every zoom level.
const unitOf = (values, units) => {
  const power = powerOf(Math.max(...values, 1), units);
  return { scale: 1000 ** power, unit: units[power] };
};
// 1, 2 and 5 of each decade, fewer where there are many; `text` writes a value with its unit.
function logAxis(values, text) {
  const known = values.filter((value) => value > 0);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const decades = Math.log10(high / low);
  const fine = decades < 0.6 ? [1, 1.5, 2, 3, 4, 5, 6, 8] : [1, 2, 5];
  const digits = decades < (isNarrow() ? 1 : 2.2) ? fine : [1];
  const powers = Array.from({ length: 20 }, (_, power) => power);
  const ticks = powers
    .flatMap((power) => digits.map((digit) => digit * 10 ** power))
    .filter((tick) => tick > low / 3 && tick < high * 3);
  return {
    type: "log",
    tickvals: ticks,
    ticktext: ticks.map((tick) => text(tick).replace(/\.0+(?= )|(\.\d)0(?= )/, "$1")),
    tickformat: undefined,
    ticksuffix: "",
    minor: { showgrid: false },
  };
}

// `figure` returns {traces, layout, caption, label} when the plot comes into view, or null if there is nothing to draw.
function plot(id, figure) {
  waiting.set(id, figure);
  if (drawn.has(id)) drawNow(id);
}

function drawNow(id) {
  const figure = waiting.get(id);
  if (figure === undefined || typeof Plotly === "undefined") return;
  drawn.add(id);
  const node = byId(id);
  const made = figure();
  byId(id.replace("plot-", "caption-")).textContent = made?.caption ?? "";
  node.classList.toggle("nothing", made === null || made.traces.length === 0);
  if (made === null || made.traces.length === 0) {
    Plotly.purge(node);
    node.replaceChildren(el("p", { class: "empty" }, made?.empty ?? "Nothing to draw yet."));
    node.removeAttribute("tabindex");
    return;
  }
  if (node.firstElementChild?.classList.contains("empty")) node.replaceChildren();
  Plotly.react(node, made.traces, made.layout, { displayModeBar: false, responsive: true, doubleClick: "reset" });
  performance.mark(id);
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", made.label);
  withCursor(node);
}

function watchPlots() {
  const watcher = new IntersectionObserver(
    (entries) =>
      entries
        .filter((entry) => entry.isIntersecting)
        .forEach((entry) => {
          watcher.unobserve(entry.target);
          drawNow(entry.target.id);
        }),
    { rootMargin: "300px" },
  );
  document.querySelectorAll(".plot").forEach((node) => watcher.observe(node));
}

// On paper everything is drawn, in light colours and at the paper's width, whatever was on the screen.
function forPaper() {
  loadPlotly();
  document.documentElement.classList.add("paper");
  document.documentElement.dataset.theme = "light";
  render();
  [...waiting.keys()].forEach(drawNow);
  document.querySelectorAll(".plot .main-svg").forEach((svg) => Plotly.Plots.resize(svg.closest(".plot")));
}

function forScreen() {
  document.documentElement.classList.remove("paper");
  applyTheme();
  render();
  document.querySelectorAll(".plot .main-svg").forEach((svg) => Plotly.Plots.resize(svg.closest(".plot")));
}

function watchPrinting() {
  window.addEventListener("beforeprint", forPaper);
  window.addEventListener("afterprint", forScreen);
}

// Left and right go from point to point along the lines, and the values are announced.
function withCursor(node) {
  node.tabIndex = 0;
  if (node.dataset.cursor !== undefined) return;
  node.dataset.cursor = "-1";
  node.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const curves = node.data.map((trace, number) => ({ trace, number })).filter(({ trace }) => trace.meta?.said);
    const last = Math.max(...curves.map(({ trace }) => trace.x.length)) - 1;
    const now = Math.max(0, Math.min(last, step === Infinity ? last : Number(node.dataset.cursor) + step));
    node.dataset.cursor = String(now);
    const points = curves.filter(({ trace }) => now < trace.x.length);
    Plotly.Fx.hover(
      node,
      points.map(({ number }) => ({ curveNumber: number, pointNumber: now })),
    );
    say(points.map(({ trace }) => trace.meta.said(now)).join("; "));
  });
  node.addEventListener("blur", () => Plotly.Fx.unhover(node));
}

const brief = (text, most = isNarrow() ? 24 : 36) => plain(text.length > most ? `${text.slice(0, most - 1)}…` : text);

// Labels at the ends of lines, moved apart so that none covers another and all stay between `low` and `high`: only
// those of the highest lines if there is not enough room. Points: {y, text, color}, room in the axis' units.
function endLabels(points, room, [low, high]) {
  const most = Math.floor((high - low) / room) + 1;
  const sorted = [...points].sort((a, b) => a.y - b.y).slice(-most);
  const places = [];
  for (const { y } of sorted) places.push(Math.max(y, (places.at(-1) ?? -Infinity) + room));
  const shift = mean(places.map((place, i) => place - sorted[i].y));
  for (const i of places.keys()) places[i] = Math.max(places[i] - shift, low + i * room);
  for (let i = places.length - 1, top = high; i >= 0; i -= 1, top -= room) places[i] = Math.min(places[i], top);
  return sorted.map(({ text, color }, i) => ({
    xref: "paper",
    x: 1,
    xanchor: "left",
    xshift: 8,
    y: places[i],
    yanchor: "middle",
    text: brief(text),
    showarrow: false,
    font: { color, size: 12.5 },
    align: "left",
  }));
}

const saved = (id) =>
  Plotly.downloadImage(byId(id), { format: "svg", filename: id.replace("plot-", ""), width: 900, height: 560 });
