// What the reader chose, kept in the address so that a reload or a link shows the same; and what follows from it.

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
  theme: "auto",
};

const state = { ...DEFAULTS };
let data = { shared: "", runs: [], keys: { differing: {}, chosen: [], words: {} }, accuracies: {} };

function restoreState() {
  try {
    const saved = JSON.parse(decodeURIComponent(location.hash.slice(1)) || "{}");
    for (const key of Object.keys(DEFAULTS)) {
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
  const text = changed.length > 0 ? `#${encodeURIComponent(JSON.stringify(Object.fromEntries(changed)))}` : "#";
  try {
    history.replaceState(null, "", text);
    localStorage.setItem("pffdst-theme", state.theme);
  } catch {
    // nothing is kept, all else works
  }
}

// ---- looks: hues that the colour-blind tell apart, dashes and markers beside them

const HUES = {
  light: ["#0a63a8", "#c2410c", "#007a5a", "#9c3587", "#8a6500", "#4a5568", "#0e8aa8", "#8f1d3f"],
  dark: ["#6cb4f0", "#ff9a5c", "#3fcf9f", "#e08ad0", "#e3bb4a", "#b6c0cf", "#5fd4ee", "#ff8aa5"],
};
const DASHES = ["solid", "dash", "dot", "dashdot"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "triangle-down"];
const PART_HUES = {
  light: {
    values: "#2f6fa7",
    mask: "#d98200",
    frozen: "#3f8f77",
    catch_up: "#a84a86",
    dense: "#8d8d86",
    header: "#30343b",
  },
  dark: {
    values: "#6aa9de",
    mask: "#f0b040",
    frozen: "#58b99b",
    catch_up: "#d987bb",
    dense: "#9a9a94",
    header: "#e6e6e2",
  },
};
const PART_WORDS = {
  values: "values",
  mask: "masks",
  frozen: "frozen weights",
  catch_up: "catching up",
  dense: "biases, statistics",
  header: "headers",
};

const dark = () => document.documentElement.dataset.theme === "dark";
const hues = () => HUES[dark() ? "dark" : "light"];
const lookOf = (group) => ({
  color: hues()[group.hue % HUES.light.length],
  dash: DASHES[group.style % DASHES.length],
  symbol: SYMBOLS[group.style % SYMBOLS.length],
});

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
  const keys = (state.keys ?? data.keys.chosen).filter((key) => differing.includes(key));
  const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const told = [...new Set(["method_name", "seed", "dataset.name", "model", ...differing])];
  const matching = data.runs.filter((run) => isMatch(run, words, told));
  const usable = matching.filter((run) => run.figures && run.twin === "");
  const anyDone = data.runs.some((run) => run.counted);
  const counted = usable.filter((run) => run.counted || state.unfinished || !anyDone);
  const groups = groupRuns(counted, keys, data.keys.words);
  for (const group of groups) group.look = lookOf(group);
  const shown = groups.filter((group) => !state.hidden.includes(group.label));
  return { keys, differing, matching, usable, counted, groups, shown, anyDone, accuracy: state.accuracy };
}

const levelsNow = (seen) => parseLevels(state.targets) ?? levelsFor(seen.groups, state.accuracy);
const budgetsNow = (seen) => parseBytes(state.budgets) ?? budgetsFor(seen.groups);
// A run's name without the folders that all runs are in.
function sharedFolder() {
  const folders = data.runs.map((run) => run.id.split("/").slice(0, -1));
  const [first = []] = folders;
  const length = first.findIndex((part, i) => folders.some((each) => each[i] !== part));
  return first.slice(0, length === -1 ? first.length : length).join("/");
}
const nameOf = (run) => (data.shared === "" ? run.id : run.id.slice(data.shared.length + 1));
const withSeed = (run, keys) => {
  const parts = keys.map((key) => toldOf(key, run.config[key], data.keys.words));
  return [...parts, `seed ${run.config.seed ?? ABSENT}`].join(" · ");
};
