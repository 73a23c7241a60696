// Figures of runs and groups. figures.py computes the same for the files of --csv, --latex and --png.

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
const curvesOf = new WeakMap(); // by run and accuracy: a run may have hundreds of thousands of rounds
function curveOf(run, accuracy) {
  if (!curvesOf.has(run)) curvesOf.set(run, {});
  const known = curvesOf.get(run);
  if (known[accuracy] === undefined) {
    const { round, bytes, flops, up, seconds } = run.curves;
    const sent = (i) => up[i] ?? bytes[i] / 2;
    const points = run.curves[accuracy].map((y, i) => [round[i], y, bytes[i], flops[i], sent(i), seconds?.[i] ?? NaN]);
    known[accuracy] = points.filter((point) => point.every((value) => value !== null));
  }
  return known[accuracy];
}

// At most `most` of the points, evenly spaced, including the first and last.
function thinned(points, most) {
  if (points.length <= most) return points;
  return Array.from({ length: most }, (_, i) => points[Math.round((i * (points.length - 1)) / (most - 1))]);
}

// For runs without a readable evaluation only the final figures are known.
const drawnRuns = (runs, accuracy) => runs.filter((run) => curveOf(run, accuracy).length > 0);

// The evaluations as {round, share, bytes, ...}.
function pointsOf(run, accuracy) {
  const { cohort } = run.config;
  const named = ([round, share, bytes, flops, up, seconds]) => ({ round, share, bytes, flops, up, seconds, cohort });
  return curveOf(run, accuracy).map(named);
}

// Means at equal x, `of` a point, over the runs that have a curve. A run is a straight line between its evaluations and
// has no value beyond them: the places are those of all runs' evaluations, from the largest first to the smallest last
// one, at most `most` of them. Empty where the runs share no range.
function meanCurve(runs, accuracy, of, most = Infinity) {
  const curves = drawnRuns(runs, accuracy).map((run) => {
    const known = pointsOf(run, accuracy).filter((point) => Number.isFinite(of(point)));
    return known.map((point) => ({ x: of(point), point })).sort((a, b) => a.x - b.x);
  });
  const reached = curves.map(() => 0); // by run: the place of its last evaluation at x or before
  return thinned(sharedPlaces(curves), most).map((x) => {
    const points = curves.map((curve, i) => {
      while (curve[reached[i] + 1]?.x <= x) reached[i] += 1;
      return pointAt(curve[reached[i]], curve[reached[i] + 1], x);
    });
    const over = (key) => mean(points.map((point) => point[key]));
    return { x, round: over("round"), bytes: over("bytes"), y: spreadOf(points.map((point) => point.share)) };
  });
}

// A single place is no range, unless nobody has another.
function sharedPlaces(curves) {
  if (curves.length === 0 || curves.some((curve) => curve.length === 0)) return [];
  const [low, high] = [Math.max(...curves.map((c) => c[0].x)), Math.min(...curves.map((c) => c.at(-1).x))];
  if (low >= high && curves.some((curve) => curve[0].x !== curve.at(-1).x)) return [];
  const places = curves.flatMap((curve) => curve.map(({ x }) => x)).filter((x) => low <= x && x <= high);
  return [...new Set(places)].sort((a, b) => a - b);
}

function pointAt(last, next, x) {
  if (last.x === x) return last.point;
  const part = (x - last.x) / (next.x - last.x);
  const along = (key) => last.point[key] + part * (next.point[key] - last.point[key]);
  return { round: along("round"), bytes: along("bytes"), share: along("share") };
}

// Levels are rounded as the accuracies are (`rounded` in figures.py).
const bytesToReach = (run, accuracy, level) =>
  curveOf(run, accuracy).find((point) => point[1] >= Number(level.toPrecision(9)))?.[2] ?? null;

const accuracyAt = (run, accuracy, budget) =>
  curveOf(run, accuracy)
    .filter((point) => point[2] <= budget)
    .at(-1)?.[1] ?? null;

// A figure by seed: of several runs of one seed the mean, null if one of them has none.
function bySeed(runs, figure) {
  const found = new Map();
  for (const run of runs) found.set(run.config.seed, [...(found.get(run.config.seed) ?? []), figure(run)]);
  return new Map([...found].map(([seed, values]) => [seed, values.includes(null) ? null : mean(values)]));
}

// `compare` applied to a figure and the reference's, seed by seed over the seeds that both share.
function paired(group, reference, figure, compare) {
  const [own, theirs] = [bySeed(group.runs, figure), bySeed(reference.runs, figure)];
  const shared = [...own.keys()].filter((seed) => theirs.has(seed));
  const values = shared.map((seed) => {
    const both = [own.get(seed), theirs.get(seed)];
    return both.includes(null) ? null : compare(...both);
  });
  return { ...compared(values, compare), seeds: Math.max(own.size, theirs.size) };
}

// Of differences the mean; of ratios the geometric mean, so that inverse ratios have the inverse mean. With the lowest
// and the highest, half of the mean's 95 % interval (of a ratio's logarithm), and whether it contains equality.
function compared(values, compare) {
  const isRatio = compare === ratioOf;
  const spread = spreadOf(values.map((value) => (isRatio && value !== null ? Math.log(value) : value)));
  const known = values.filter((value) => value !== null);
  const half = halfOf(spread);
  return {
    mean: isRatio ? Math.exp(spread.mean) : spread.mean,
    low: Math.min(...known),
    high: Math.max(...known),
    half,
    byChance: Math.abs(spread.mean) < half,
    n: spread.n,
    of: spread.of,
  };
}

// Half of the 95 % interval of a mean over n values, by Student's t; NaN for a single one.
const halfOf = ({ sd, n }) => (n > 1 ? (tOf(n - 1) * sd) / Math.sqrt(n) : NaN);

// The 97.5 % quantile of Student's t by degrees of freedom, from 1.
const T = [
  ...[12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228],
  ...[2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11, 2.101, 2.093, 2.086],
  ...[2.08, 2.074, 2.069, 2.064, 2.06, 2.056, 2.052, 2.048, 2.045, 2.042],
];
const tOf = (freedom) => T[freedom - 1] ?? 1.96 + 2.47 / freedom;

const ratioOf = (own, other) => (other === 0 ? null : own / other);
const differenceOf = (own, other) => own - other;

// Points {x, y} that no other beats in both: fewer bytes and more accuracy.
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

// Runs with equal values of `keys`. The usual is not shown: a key in which the groups of one method (the first key's
// value) agree or, for words, the value of more than half of them. The family determines the colour, the variant
// (numbers, such as the sparsity) the dashes.
function groupRuns(runs, keys, words) {
  const divided = new Map();
  for (const run of runs) {
    const values = keys.map((key) => run.config[key] ?? null);
    const mark = JSON.stringify(values);
    if (!divided.has(mark)) divided.set(mark, { mark, values, runs: [] });
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
  return found;
}

// The usual {value}, null if every group of the method shows its own.
function usualValue(groups, i) {
  const counts = new Map();
  for (const group of groups) counts.set(group.values[i], (counts.get(group.values[i]) ?? 0) + 1);
  const [value, count] = [...counts].sort((a, b) => b[1] - a[1])[0];
  const isUsual = counts.size === 1 || (2 * count > groups.length && ![...counts.keys()].every(isNumber));
  return isUsual ? { value, alone: counts.size === 1 } : null;
}

// By group: one hue per method; its variants differ in shade, dash and marker.
function looksOf(groups, hues) {
  const methodOf = (group) => {
    const names = new Set(group.runs.map((run) => String(run.config.method_name ?? "")));
    return names.size === 1 ? [...names][0] : group.family;
  };
  const members = new Map();
  for (const group of groups) members.set(methodOf(group), [...(members.get(methodOf(group)) ?? []), group]);
  const looks = new Map();
  [...members].forEach(([method, own], place) => {
    const hue = hues[method] ?? place;
    own.forEach((group, nth) =>
      // two methods of one hue, if there are more methods than hues, at least differ in their markers
      looks.set(group.mark, { hue, style: nth + (method in hues ? 0 : place), shade: own.length > 1 ? nth / (own.length - 1) : 0 }),
    );
  });
  return apart(looks);
}

// If two looks are the same, the later one takes the next marker.
function apart(looks) {
  const taken = new Set();
  for (const look of looks.values()) {
    const word = () => `${look.hue} ${look.style % 5} ${look.shade}`;
    for (let step = 0; step < 5 && taken.has(word()); step += 1) look.style += 1;
    taken.add(word());
  }
  return looks;
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

// One unit per column, so that its numbers line up.
function columnScale(values, units) {
  const known = values.filter((value) => Number.isFinite(value) && value > 0);
  const power = known.length === 0 ? 0 : powerOf(Math.min(...known), units);
  const largest = known.length === 0 ? 0 : Math.max(...known) / 1000 ** power;
  const shift = largest >= 10000 ? 1 : 0;
  const least = known.length === 0 ? 1 : Math.min(...known) / 1000 ** (power + shift);
  const digits = power + shift === 0 ? 0 : least >= 100 ? 0 : least >= 10 ? 1 : 2;
  return { unit: units[power + shift], text: (value) => fixed(value / 1000 ** (power + shift), digits) };
}

// "1 MB, 2.5 GB" as numbers of bytes, or null for anything else.
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

// Three whole percents above chance that at least half of the groups reach with every seed: the highest that all
// reach (or nearly chance), that three quarters do, that half do.
function levelsFor(groups, accuracy, chance = 0) {
  const best = (run) => curveOf(run, accuracy).reduce((most, point) => Math.max(most, point[1]), 0);
  const drawn = groups.map((group) => drawnRuns(group.runs, accuracy)).filter((runs) => runs.length > 0);
  const reached = drawn.map((runs) => Math.min(...runs.map(best))).sort((a, b) => b - a);
  const percent = (rank) => Math.floor(100 * (reached[Math.max(rank, 1) - 1] ?? 0) + 1e-9);
  const top = percent(Math.ceil(reached.length / 2));
  const least = Math.floor(100 * chance * 1.5) + 1;
  if (top < least) return top > 100 * chance ? [top / 100] : [];
  const wanted = [percent(reached.length), percent(Math.ceil(0.75 * reached.length)), top];
  const levels = wanted.map((level) => Math.max(level, Math.min(top, Math.max(least, Math.round(0.6 * top)))));
  return [...new Set(levels)].sort((a, b) => a - b).map((level) => level / 100);
}

// Budgets, to two digits, within what at least half of the groups have evaluated and still spend: the smallest, the one
// that most groups share, the largest.
function budgetsFor(groups, accuracy) {
  const spans = groups
    .map((group) => drawnRuns(group.runs, accuracy).map((run) => curveOf(run, accuracy)))
    .filter((curves) => curves.length > 0)
    .map((curves) => [Math.max(...curves.map((c) => c[0][2])), Math.min(...curves.map((c) => c.at(-1)[2]))])
    .filter(([low, high]) => low > 0 && high >= low);
  const count = (budget) => spans.filter(([low, high]) => low <= budget && budget <= high).length;
  const digits = (value) => {
    const digit = 10 ** (Math.floor(Math.log10(value)) - 1);
    return Math.floor(value / digit + 1e-9) * digit;
  };
  const tried = spans.flatMap(([low, high]) => [low * 1.1, Math.sqrt(low * high), high]).map(digits);
  const wide = [...new Set(tried)].sort((a, b) => a - b).filter((budget) => 2 * count(budget) >= spans.length);
  if (wide.length === 0) return [...new Set(spans.map(([, high]) => digits(high)))].sort((a, b) => a - b).slice(0, 3);
  const most = wide.reduce((best, budget) => (count(budget) >= count(best) ? budget : best));
  return [...new Set([wide[0], most, wide.at(-1)])].sort((a, b) => a - b);
}

// Seconds of a deployment: a cohort's clients in parallel, each with a link of so many Mbit/s and a device of GFLOP/s.
function deploymentSeconds(up, down, flops, cohort, link) {
  if (!(cohort > 0)) return NaN;
  return (
    (8 * up) / (cohort * link.uplink * 1e6) +
    (8 * down) / (cohort * link.downlink * 1e6) +
    flops / (cohort * link.device * 1e9)
  );
}

const totalBytes = (run) => (run.final.bytes_up ?? NaN) + (run.final.bytes_down ?? NaN);
