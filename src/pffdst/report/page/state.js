// What the reader chose, kept in the address so that a reload or a link shows the same, and what follows from it.

const DEFAULTS = {
  accuracy: "ema_acc_global",
  keys: null,
  filter: "",
  unfinished: false,
  hidden: [],
  chosen: [],
  sort: ["id", false],
  groupSort: ["accuracy", true],
  x: "round",
  log: null,
  spread: "band",
  targets: "",
  budgets: "",
  reference: "",
  density: "",
  partition: "",
  partsAs: "bytes",
  left: "",
  right: "",
  uplink: 1,
  downlink: 10,
  device: 10,
  theme: "auto",
};

const state = { ...DEFAULTS };
let data = { shared: "", runs: [], keys: { differing: {}, chosen: [], words: {} }, accuracies: {}, parts: {} };

// `filter=pffdst&x=bytes`: words unchanged, everything else as JSON.
function readAddress(text) {
  const pairs = [...new URLSearchParams(text)].filter(([key]) => key in DEFAULTS);
  return Object.fromEntries(
    pairs.map(([key, value]) => [key, typeof DEFAULTS[key] === "string" ? value : JSON.parse(value)]),
  );
}

function restoreState() {
  try {
    const saved = readAddress(location.hash.slice(1));
    for (const key of Object.keys(DEFAULTS)) {
      if (key !== "theme") state[key] = DEFAULTS[key];
      const fits =
        DEFAULTS[key] === null ||
        (typeof saved[key] === typeof DEFAULTS[key] && Array.isArray(saved[key]) === Array.isArray(DEFAULTS[key]));
      if (key in saved && fits) state[key] = saved[key];
    }
    state.theme = localStorage.getItem("pffdst-theme") ?? state.theme;
  } catch {
    // an address from elsewhere, or a browser that keeps nothing
  }
}

function saveState() {
  const changed = Object.entries(state).filter(
    ([key, value]) => key !== "theme" && JSON.stringify(value) !== JSON.stringify(DEFAULTS[key]),
  );
  const words = changed.map(([key, value]) => [key, typeof value === "string" ? value : JSON.stringify(value)]);
  const text = `#${new URLSearchParams(words)}`;
  try {
    history.replaceState(null, "", text);
    localStorage.setItem("pffdst-theme", state.theme);
  } catch {
    // nothing is kept, everything else works
  }
}

// ---- looks: hues that the colour-blind can distinguish, with dashes and markers

const HUES = {
  // as in looks.py, in the same order
  light: [
    ...["#c2410c", "#0a63a8", "#007a5a", "#9c3587", "#8a6500", "#4a5568"],
    ...["#0b7f96", "#8f1d3f", "#5b4bc4", "#4d7c0f", "#7c4a2d", "#c02679"],
  ],
  dark: [
    ...["#ff9a5c", "#6cb4f0", "#3fcf9f", "#e08ad0", "#e3bb4a", "#b6c0cf"],
    ...["#5fd4ee", "#ff8aa5", "#a99cff", "#a3d65c", "#d8a17e", "#ff86c3"],
  ],
};
const DASHES = ["solid", "dash", "dot", "dashdot"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "triangle-down"];

const dark = () => document.documentElement.dataset.theme === "dark";
const partHue = (part) => data.parts[part].hues[dark() ? 1 : 0];
const hues = () => HUES[dark() ? "dark" : "light"];
const lookOf = (group) => ({
  color: shaded(hues()[group.hue % HUES.light.length], group.shade),
  dash: DASHES[group.style % DASHES.length],
  symbol: SYMBOLS[group.style % SYMBOLS.length],
});

// A variant's shade of its method's hue: away from the background, so that it is never harder to read.
function shaded(color, share) {
  const towards = dark() ? 255 : 0;
  const parts = [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
  return `#${parts.map((part) => Math.round(part + (towards - part) * 0.42 * share).toString(16).padStart(2, "0")).join("")}`;
}

// ---- what is compared now

const isMatch = (run, words, told) => {
  const text = [
    run.id,
    run.status,
    ...told.map((key) => `${keyName(key)}=${wordOf(key, run.config[key], data.keys.words)} ${run.config[key]}`),
  ]
    .join(" ")
    .toLowerCase();
  return words.every((word) => text.includes(word));
};

function view() {
  const differing = Object.keys(data.keys.differing);
  const asked = state.keys ?? data.keys.chosen;
  // Accuracies on test and on validation samples never share a mean, whatever is chosen.
  const keys = differing.filter((key) => asked.includes(key) || key === "evaluated on");
  const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const told = [...new Set(["method_name", "seed", "dataset.name", "model", ...differing])];
  const matching = data.runs.filter((run) => isMatch(run, words, told));
  const usable = matching.filter((run) => run.figures && run.twin === "");
  const anyDone = data.runs.some((run) => run.counted);
  const counted = usable.filter((run) => run.counted || state.unfinished || !anyDone);
  const groups = groupRuns(counted, keys, data.keys.words);
  // Looks depend on all runs: a filter changes none.
  const everyone = data.runs.filter((run) => run.figures && run.twin === "");
  const looks = looksOf(groupRuns(everyone, keys, data.keys.words), data.hues);
  for (const group of groups) group.look = lookOf(looks.get(group.mark));
  const shown = groups.filter((group) => !state.hidden.includes(group.label));
  return { keys, differing, matching, usable, counted, groups, shown, anyDone, accuracy: state.accuracy };
}

const levelsNow = (seen) => parseLevels(state.targets) ?? levelsFor(seen.groups, state.accuracy, data.chance);
// By the run's own model of time, if it has one.
const timeOf = ({ final, config }) =>
  final.deployment_seconds ??
  deploymentSeconds(final.bytes_up ?? NaN, final.bytes_down ?? NaN, final.flops ?? NaN, config.cohort, state);
const budgetsNow = (seen) => parseBytes(state.budgets) ?? budgetsFor(seen.groups, state.accuracy);
// A run's name without the folders that all runs are in.
function sharedFolder() {
  const folders = data.runs.map((run) => run.id.split("/").slice(0, -1));
  const [first = []] = folders;
  const length = first.findIndex((part, i) => folders.some((each) => each[i] !== part));
  return first.slice(0, length === -1 ? first.length : length).join("/");
}
// A sweep's jobs are named by number: their folder says which sweep.
const nameOf = (run) => {
  const short = data.shared === "" ? run.id : run.id.slice(data.shared.length + 1);
  return /^\d+$/.test(short) ? run.id.split("/").slice(-2).join("/") : short;
};
const withSeed = (run, keys) => {
  const parts = keys.map((key) => toldOf(key, run.config[key], data.keys.words));
  return [...parts, `seed ${run.config.seed ?? ABSENT}`].join(" · ");
};
