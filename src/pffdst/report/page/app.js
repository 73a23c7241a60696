// The page's main loop: read the data, draw, listen and, if it is served, ask for changes.

function render() {
  const focused = document.activeElement?.id;
  const seen = view();
  controls(seen);
  fill("headline", headline(seen));
  fill("groups", seen.groups.length > 0 ? groupTable(seen) : null);
  byId("groups-note").textContent = seen.groups.length > 0 ? notes(seen) : "";
  fill(
    "keys-curves",
    seen.groups.map((group) => el("li", {}, groupToggle(group, "curves"))),
  );
  fill(
    "keys-parts",
    Object.entries(data.parts).map(([part, { words }]) =>
      el(
        "li",
        {},
        el("span", { class: "chip", style: { "--chip": partHue(part) } }),
        words,
      ),
    ),
  );
  fill("table-curves", seen.shown.length > 0 ? curvesTable(seen) : null);
  fill("reach", seen.groups.length > 0 ? reachTable(seen) : null);
  fill("at", seen.groups.length > 0 ? atTable(seen) : null);
  fill(
    "keys-frozen",
    groupsOver(seen, "frozen").map((group) => el("li", { class: "named" }, swatch(group.look), group.label)),
  );
  fill("pair", pairTable(seen));
  fill("runs", runTable(seen));
  byId("runs-count").textContent = `${seen.matching.length} of ${data.runs.length} runs`;
  const [differences, note] = differenceTable(seen);
  fill("differences", differences);
  byId("differences-note").textContent = note;
  const left = leftTable();
  byId("left-section").hidden = left === null;
  fill("left", left);
  plots(seen);
  saveState();
  if (focused && document.activeElement?.id !== focused) byId(focused)?.focus({ preventScroll: true });
}

function plots(seen) {
  const figures = {
    curves: accuracyCurves,
    pareto,
    parts,
    pair: pairCurves,
    changed,
    frozen: frozenShare,
    density: densityMap,
    clients: clientAccuracies,
    partition: partitionMap,
  };
  // Their heights are known in advance: nothing moves under the reader's pointer when they are drawn.
  byId("plot-changed").style.height = `${lanesHeight(seen)}px`;
  byId("plot-parts").style.height = `${partsHeight(seen)}px`;
  for (const [name, figure] of Object.entries(figures)) plot(`plot-${name}`, () => figure(seen));
}

function notes(seen) {
  const open = data.runs.filter((run) => !run.counted && run.figures && run.twin === "").length;
  const words = [
    `${data.accuracies[state.accuracy][0].toUpperCase()}${data.accuracies[state.accuracy].slice(1)}; mean ± standard deviation over n runs.`,
  ];
  if (!seen.anyDone) words.push("No run is finished: figures are the current ones.");
  else if (open > 0)
    words.push(
      state.unfinished
        ? `${open} unfinished runs are counted as they stand.`
        : `${open} unfinished runs are not counted.`,
    );
  const unsaid = unsaidSettings(seen);
  if (unsaid !== "") words.push(`Unless stated otherwise: ${unsaid}.`);
  if (state.accuracy.startsWith("acc_")) words.push("The last round alone varies by several points with its cohort.");
  return words.join(" ");
}

function unsaidSettings(seen) {
  const told = seen.groups.flatMap((group) =>
    group.usual.map((usual, i) => (usual && !usual.alone ? toldOf(seen.keys[i], usual.value, data.keys.words) : "")),
  );
  return [...new Set(told.filter(Boolean))].join(", ");
}

// ---- controls

const set = (key) => (value) => {
  state[key] = value;
  render();
};

function controls(seen) {
  byId("title").textContent = "Comparison of runs";
  const done = seen.counted.filter((run) => run.counted).length;
  const place = [data.base, data.shared].filter(Boolean).join("/");
  byId("subtitle").textContent = [
    place,
    `${counted(done, "finished run")} in ${counted(seen.groups.length, "group")}${state.filter.trim() === "" ? "" : ", filtered"}`,
    ...settings(seen),
  ].join(" · ");
  byId("made").textContent =
    `Written ${data.made.slice(0, 16).replace("T", " ")}. Bytes are measured lengths of messages, in decimal units.`;
  options("accuracy", Object.entries(data.accuracies), state.accuracy);
  segments(
    "x",
    "x",
    [
      ["round", "Round"],
      ["bytes", "Bytes"],
      ["time", "Time"],
      ["flops", "FLOPs"],
    ],
    state.x,
    (value) => {
      state.log = null;
      set("x")(value);
    },
  );
  segments(
    "spread",
    "spread",
    [
      ["band", "Mean ± sd"],
      ["runs", "Runs"],
    ],
    state.spread,
    set("spread"),
  );
  segments(
    "parts-as",
    "parts-as",
    [
      ["bytes", "Bytes"],
      ["share", "Share"],
      ["log", "Log"],
    ],
    state.partsAs,
    set("partsAs"),
  );
  for (const id of ["uplink", "downlink", "device"]) if (document.activeElement !== byId(id)) byId(id).value = state[id];
  byId("log").checked = isLog();
  byId("unfinished").checked = state.unfinished;
  if (document.activeElement !== byId("filter")) byId("filter").value = state.filter;
  for (const [id, usual, text] of [
    ["targets", levelsFor(seen.groups, state.accuracy, data.chance), (level) => String(Math.round(100 * level))],
    ["budgets", budgetsFor(seen.groups, state.accuracy), bytesText],
  ]) {
    byId(id).placeholder = usual.map(text).join(", ");
    byId(id).size = Math.max(12, byId(id).placeholder.length, state[id].length);
    if (document.activeElement !== byId(id)) byId(id).value = state[id];
  }
  options(
    "reference",
    [["", "the best of each column"], ...seen.groups.map((group) => [group.label, group.label])],
    seen.groups.some((group) => group.label === state.reference) ? state.reference : "",
  );
  groupBy(seen);
  pairChoices(seen);
  runChoice("density", seen, hasDensity);
  runChoice("partition", seen, (run) => (run.clients.train ?? []).length > 0);
}

const counted = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

// What all runs have in common and readers want to know first.
function settings(seen) {
  const shared = (key) => new Set(seen.usable.map((run) => run.config[key])).size === 1 && seen.usable[0].config[key];
  const [dataset, model, rounds, clients, cohort] = ["dataset.name", "model", "rounds", "clients", "cohort"].map(
    shared,
  );
  return [dataset, model, rounds && `${rounds} rounds`, clients && cohort && `${cohort} of ${clients} clients a round`]
    .filter(Boolean)
    .map(String);
}

function runChoice(name, seen, has) {
  const runs = seen.usable.filter(has);
  const now = (name === "density" ? densityRun(seen) : runNamed(state[name], seen, has))?.id ?? "";
  options(
    `${name}-run`,
    runs.map((run) => [run.id, `${nameOf(run)}: ${withSeed(run, seen.keys)}`]),
    now,
  );
  byId(`${name}-run`).disabled = runs.length === 0;
}

function groupBy(seen) {
  byId("group-by-summary").textContent = seen.keys.map(keyName).join(", ") || "nothing";
  const item = (key) =>
    el(
      "label",
      { class: "check" },
      el("input", {
        type: "checkbox",
        id: `key-${key}`,
        checked: seen.keys.includes(key),
        onchange: (event) => {
          state.keys = seen.differing.filter((each) =>
            each === key ? event.target.checked : seen.keys.includes(each),
          );
          state.hidden = [];
          render();
        },
      }),
      el(
        "span",
        {},
        keyName(key),
        el(
          "span",
          { class: "quiet" },
          ` ${data.keys.differing[key]
            .slice(0, 4)
            .map((value) => wordOf(key, value, data.keys.words))
            .join(", ")}`,
        ),
      ),
    );
  const usual = el(
    "button",
    {
      type: "button",
      class: "plain",
      id: "keys-usual",
      onclick: () => {
        state.keys = null;
        state.hidden = [];
        render();
      },
    },
    "Everything that differs",
  );
  fill(
    "group-by-list",
    seen.differing.length === 0
      ? el("p", { class: "quiet" }, "The runs only differ in their seeds.")
      : [usual, ...seen.differing.map(item)],
  );
}

function listen() {
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("accuracy").addEventListener("change", (event) => set("accuracy")(event.target.value));
  byId("filter").addEventListener("input", (event) => set("filter")(event.target.value));
  byId("unfinished").addEventListener("change", (event) => set("unfinished")(event.target.checked));
  byId("log").addEventListener("change", (event) => set("log")(event.target.checked));
  byId("reference").addEventListener("change", (event) => set("reference")(event.target.value));
  for (const side of ["left", "right"])
    byId(`pair-${side}`).addEventListener("change", (event) => set(side)(event.target.value));
  for (const id of ["uplink", "downlink", "device"])
    byId(id).addEventListener("input", (event) => {
      const speed = Number(event.target.value);
      event.target.setAttribute("aria-invalid", String(!(speed > 0)));
      if (speed > 0) set(id)(speed);
    });
  window.addEventListener("hashchange", () => {
    restoreState();
    render();
  });
  for (const name of ["density", "partition"])
    byId(`${name}-run`).addEventListener("change", (event) => set(name)(event.target.value));
  for (const [id, parse] of [
    ["targets", parseLevels],
    ["budgets", parseBytes],
  ])
    byId(id).addEventListener("input", (event) => {
      const text = event.target.value;
      const wrong = text.trim() !== "" && parse(text) === null;
      event.target.setAttribute("aria-invalid", String(wrong));
      event.target.title = wrong
        ? id === "targets"
          ? "Enter percentages, such as 60, 80"
          : "Enter sizes, such as 1 MB, 2.5 GB"
        : "";
      if (!wrong) set(id)(text);
    });
  byId("choose-none").addEventListener("click", () => set("chosen")([]));
  document
    .querySelectorAll("[data-save]")
    .forEach((button) => button.addEventListener("click", () => saved(button.dataset.save)));
  document.addEventListener("click", (event) => {
    if (!byId("group-by").contains(event.target)) byId("group-by").open = false;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && byId("group-by").open) {
      byId("group-by").open = false;
      byId("group-by-summary").focus();
    }
  });
  window.matchMedia("(max-width: 700px)").addEventListener("change", render);
}

// ---- light and dark

const system = window.matchMedia("(prefers-color-scheme: dark)");

function applyTheme() {
  const isDark = state.theme === "auto" ? system.matches : state.theme === "dark";
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  segments(
    "theme",
    "theme",
    [
      ["auto", "Auto"],
      ["light", "Light"],
      ["dark", "Dark"],
    ],
    state.theme,
    (value) => {
      state.theme = value;
      applyTheme();
      render();
      byId(`theme-${value}`).focus();
    },
  );
}

// ---- data

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// Runs that did not change are kept; those that are gone are removed.
function merge(news) {
  const known = new Map(data.runs.map((run) => [run.id, run]));
  for (const run of news.runs) known.set(run.id, run);
  data = { ...news, runs: news.all.map((id) => known.get(id)).filter(Boolean) };
  data.shared = sharedFolder();
}

async function refresh() {
  const note = byId("live");
  try {
    const answer = await fetch(`data.json?since=${data.version}&session=${data.session}`, { cache: "no-store" });
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    const news = await answer.json();
    if (news.session !== data.session) data = { ...data, runs: [] };
    const moved = news.version !== data.version || news.session !== data.session;
    merge(news);
    if (moved) render();
    note.textContent = `Live, ${new Date().toTimeString().slice(0, 8)}`;
    note.classList.remove("lost");
  } catch {
    note.textContent = "Live: the server is not responding";
    note.classList.add("lost");
  }
}

function followLive() {
  byId("live").hidden = false;
  byId("live").textContent = "Live";
  setInterval(() => {
    if (document.visibilityState === "visible") refresh();
  }, 3000);
}

function loadPlotly() {
  if (typeof Plotly !== "undefined") return;
  const script = el("script");
  script.textContent = byId("plotly").textContent;
  document.head.append(script);
}

async function start() {
  restoreState();
  applyTheme();
  system.addEventListener("change", () => {
    applyTheme();
    render();
  });
  merge(await unpacked(byId("data").textContent.trim()));
  if (!(state.accuracy in data.accuracies)) state.accuracy = DEFAULTS.accuracy;
  listen();
  render();
  document.body.dataset.ready = "yes";
  if (document.body.dataset.mode === "live") followLive();
  performance.mark("tables");
  // The tables are on the screen before the plotting library is loaded.
  const draw = () =>
    requestAnimationFrame(() =>
      setTimeout(() => {
        loadPlotly();
        watchPlots();
        watchPrinting();
      }),
    );
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", draw);
  else draw();
}

start();
