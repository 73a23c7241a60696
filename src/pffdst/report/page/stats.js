// Figures of runs and groups. figures.py says the same for the files of --csv, --latex and --png.

const ABSENT = "–";

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function spreadOf(values) {
  const known = values.filter((value) => value !== null && value !== undefined);
  if (known.length === 0) return { mean: NaN, sd: NaN, n: 0, of: values.length };
  const middle = mean(known);
  const squares = known.map((value) => (value - middle) ** 2);
  const sd = known.length > 1 ? Math.sqrt(squares.reduce((a, b) => a + b, 0) / (known.length - 1)) : NaN;
  return { mean: middle, sd, n: known.length, of: values.length };
}

// [round, accuracy, bytes, flops] of every evaluated round
function curveOf(run, accuracy) {
  const { round, bytes, flops } = run.curves;
  const points = run.curves[accuracy].map((y, i) => [round[i], y, bytes[i], flops[i]]);
  return points.filter((point) => point.every((value) => value !== null));
}

// Of runs without an evaluation that can be read only the final figures are known.
const drawnRuns = (runs, accuracy) => runs.filter((run) => curveOf(run, accuracy).length > 0);

function meanCurve(runs, accuracy) {
  const curves = drawnRuns(runs, accuracy).map(
    (run) => new Map(curveOf(run, accuracy).map((point) => [point[0], point])),
  );
  if (curves.length === 0) return [];
  const shared = [...curves[0].keys()].filter((t) => curves.every((points) => points.has(t)));
  return shared.map((t) => {
    const points = curves.map((each) => each.get(t));
    return {
      round: t,
      y: spreadOf(points.map((p) => p[1])),
      bytes: mean(points.map((p) => p[2])),
      flops: mean(points.map((p) => p[3])),
    };
  });
}

const bytesToReach = (run, accuracy, level) => curveOf(run, accuracy).find((point) => point[1] >= level)?.[2] ?? null;

const accuracyAt = (run, accuracy, budget) =>
  curveOf(run, accuracy)
    .filter((point) => point[2] <= budget)
    .at(-1)?.[1] ?? null;

// What `compare` makes of a figure and the reference's, seed by seed over the seeds of both.
function paired(group, reference, figure, compare) {
  const theirs = new Map(reference.runs.map((run) => [run.config.seed, figure(run)]));
  const shared = group.runs.filter((run) => theirs.has(run.config.seed));
  return spreadOf(
    shared.map((run) => {
      const [own, other] = [figure(run), theirs.get(run.config.seed)];
      return own === null || other === null ? null : compare(own, other);
    }),
  );
}

const ratioOf = (own, other) => (other === 0 ? null : own / other);
const differenceOf = (own, other) => own - other;

// Points {x, y} that no other one beats in both: fewer bytes and more accuracy.
function paretoFront(points) {
  const sorted = points
    .filter((p) => Number.isFinite(p.x) && Number.isFinite(p.y))
    .sort((a, b) => a.x - b.x || b.y - a.y);
  const front = [];
  for (const point of sorted) if (front.length === 0 || point.y > front.at(-1).y) front.push(point);
  return front;
}

// ---- groups

const isNumber = (value) => typeof value === "number";
const wordOf = (key, value, words) => {
  if (value === null || value === undefined) return "unset";
  return words[key]?.[String(value)] ?? String(value);
};
const keyName = (key) => (key === "method_name" ? "method" : key.replace(/\.name$/, ""));
const toldOf = (key, value, words) =>
  key === "method_name" ? wordOf(key, value, words) : `${keyName(key)} ${wordOf(key, value, words)}`;
const orderOf = (a, b) => {
  if (isNumber(a) && isNumber(b)) return a - b;
  if (isNumber(a) !== isNumber(b)) return isNumber(a) ? -1 : 1;
  return String(a) < String(b) ? -1 : String(a) > String(b) ? 1 : 0;
};

// Runs with equal values of `keys`. What goes without saying is not told: a key in which the groups of one method (the
// first key's value) agree, or, of words, the value of more than half of them. The family has the colour, the variant
// (numbers, such as the sparsity) the dashes.
function groupRuns(runs, keys, words) {
  const divided = new Map();
  for (const run of runs) {
    const values = keys.map((key) => run.config[key] ?? null);
    const mark = JSON.stringify(values);
    if (!divided.has(mark)) divided.set(mark, { values, runs: [] });
    divided.get(mark).runs.push(run);
  }
  const found = [...divided.values()].sort(
    (a, b) => a.values.map((value, i) => orderOf(value, b.values[i])).find((o) => o !== 0) ?? 0,
  );
  const numeric = keys.map((_, i) => i > 0 && found.every((group) => isNumber(group.values[i])));
  for (const group of found) {
    group.usual = keys.map(
      (_, i) =>
        i > 0 &&
        usualValue(
          found.filter((other) => other.values[0] === group.values[0]),
          i,
        ),
    );
    const shown = keys
      .map((_, i) => i)
      .filter((i) => i === 0 || !group.usual[i] || group.usual[i].value !== group.values[i]);
    const told = (picked) => picked.map((i) => toldOf(keys[i], group.values[i], words)).join(" · ");
    group.label = told(shown) || "all runs";
    group.family = told(shown.filter((i) => !numeric[i])) || group.label;
    group.variant = told(shown.filter((i) => numeric[i]));
  }
  return styled(found);
}

// {value} of what goes without saying, null where every group of the method tells its own.
function usualValue(groups, i) {
  const counts = new Map();
  for (const group of groups) counts.set(group.values[i], (counts.get(group.values[i]) ?? 0) + 1);
  const [value, count] = [...counts].sort((a, b) => b[1] - a[1])[0];
  const isUsual = counts.size === 1 || (2 * count > groups.length && ![...counts.keys()].every(isNumber));
  return isUsual ? { value, alone: counts.size === 1 } : null;
}

function styled(groups) {
  const families = [...new Set(groups.map((group) => group.family))];
  const variants = new Map(families.map((family) => [family, 0]));
  const byVariant = families.length === 1;
  for (const group of groups) {
    const nth = variants.get(group.family);
    variants.set(group.family, nth + 1);
    group.hue = byVariant ? nth : families.indexOf(group.family);
    group.style = byVariant ? nth : nth + (groups.every((g) => g.variant === "") ? families.indexOf(group.family) : 0);
  }
  return groups;
}

// ---- numbers as people read them

const BYTES = ["B", "kB", "MB", "GB", "TB", "PB"];
const FLOPS = ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"];

const powerOf = (value, units) =>
  Math.max(0, Math.min(units.length - 1, Math.floor(Math.log10(Math.max(Math.abs(value), 1) * 1.0005) / 3)));

// Three significant digits and the largest unit that leaves at least 1 before the point.
function scaled(value, units) {
  if (!Number.isFinite(value)) return ABSENT;
  const power = powerOf(value, units);
  const count = value / 1000 ** power;
  const digits = power === 0 ? 0 : count < 9.995 ? 2 : count < 99.95 ? 1 : 0;
  return `${count.toFixed(digits)} ${units[power]}`;
}

const bytesText = (value) => scaled(value, BYTES);
const flopsText = (value) => scaled(value, FLOPS);
const fixed = (value, digits) =>
  Number.isFinite(value)
    ? value
        .toFixed(digits)
        .replace(/^-(0\.?0*)$/, "$1")
        .replace(/^-/, "−")
    : ABSENT;
const percentText = (share, digits = 1) => (Number.isFinite(share) ? `${fixed(100 * share, digits)} %` : ABSENT);
const durationText = (seconds) => {
  if (!Number.isFinite(seconds)) return ABSENT;
  const whole = Math.round(seconds);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
  return h > 0
    ? `${h}:${String(m).padStart(2, "0")}:${String(s).padStart(2, "0")}`
    : `${m}:${String(s).padStart(2, "0")}`;
};

// One unit for a column, so that its numbers stand under each other.
function columnScale(values, units) {
  const known = values.filter((value) => Number.isFinite(value) && value > 0);
  const power = known.length === 0 ? 0 : powerOf(Math.min(...known), units);
  const largest = known.length === 0 ? 0 : Math.max(...known) / 1000 ** power;
  const shift = largest >= 10000 ? 1 : 0;
  const least = known.length === 0 ? 1 : Math.min(...known) / 1000 ** (power + shift);
  const digits = power + shift === 0 ? 0 : least >= 100 ? 0 : least >= 10 ? 1 : 2;
  return { unit: units[power + shift], text: (value) => fixed(value / 1000 ** (power + shift), digits) };
}

// "1 MB, 2.5 GB" as numbers of bytes, or null where something else is written.
function parseBytes(text) {
  const parts = text
    .split(",")
    .map((part) => part.trim())
    .filter(Boolean);
  const found = parts.map((part) => /^([\d.]+)\s*([kMGTP]?B)$/i.exec(part));
  if (parts.length === 0 || found.some((match) => match === null)) return null;
  const sizes = found.map(
    ([, count, unit]) => Number(count) * 1000 ** BYTES.findIndex((each) => each.toLowerCase() === unit.toLowerCase()),
  );
  return sizes.every((size) => Number.isFinite(size) && size > 0) ? sizes : null;
}

// "60, 80 %" as shares, or null.
function parseLevels(text) {
  const parts = text
    .replaceAll("%", "")
    .split(",")
    .map((part) => part.trim())
    .filter(Boolean);
  const levels = parts.map(Number);
  return parts.length > 0 && levels.every((level) => level > 0 && level <= 100)
    ? levels.map((level) => level / 100)
    : null;
}

// The highest whole percent that every run of all groups reaches, of half of them, and of two.
function levelsFor(groups, accuracy) {
  const best = (run) => Math.max(...curveOf(run, accuracy).map((point) => point[1]), 0);
  const drawn = groups.map((group) => drawnRuns(group.runs, accuracy)).filter((runs) => runs.length > 0);
  const reached = drawn.map((runs) => Math.min(...runs.map(best))).sort((a, b) => b - a);
  const ranks = [reached.length, Math.ceil(reached.length / 2), Math.min(2, reached.length)];
  const levels = ranks.map((rank) => Math.floor(100 * (reached[rank - 1] ?? 0) + 1e-9));
  return [...new Set(levels.filter((level) => level > 0))].sort((a, b) => a - b).map((level) => level / 100);
}

// What every group can spend: parts of what the most frugal one sent, and all of the most lavish one, in two digits.
function budgetsFor(groups) {
  const totals = groups.map((group) => spreadOf(group.runs.map(totalBytes)).mean).filter((total) => total > 0);
  if (totals.length === 0) return [];
  const [least, most] = [Math.min(...totals), Math.max(...totals)];
  const round = (value) => {
    const digit = 10 ** (Math.floor(Math.log10(value)) - 1);
    return Math.floor(value / digit + 1e-9) * digit;
  };
  return (most < 1.5 * least ? [least / 4, least / 2, least] : [least / 2, least, most]).map(round);
}

const totalBytes = (run) => (run.final.bytes_up ?? NaN) + (run.final.bytes_down ?? NaN);
