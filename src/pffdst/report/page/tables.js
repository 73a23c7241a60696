// The answer, and the figures of every group.

function groupFigures(group) {
  const over = (key) => spreadOf(group.runs.map((run) => run.final[key] ?? null));
  return {
    accuracy: over(state.accuracy),
    flops: over("flops"),
    time: spreadOf(group.runs.map(timeOf).map((value) => (Number.isFinite(value) ? value : null))),
    formula: spreadOf(group.runs.map(formulaBytes)),
    tenth: spreadOf(group.runs.map(worstTenth)),
    up: over("bytes_up"),
    down: over("bytes_down"),
    bytes: spreadOf(group.runs.map(totalBytes).map((value) => (Number.isFinite(value) ? value : null))),
  };
}

// The papers' formula: 4 bytes per value and a bit per position, plus the first downloads of frozen weights.
const formulaBytes = (run) =>
  run.final.paper_bytes === undefined ? null : run.final.paper_bytes + (run.final.frozen_bytes ?? 0);
const worstTenth = (run) => {
  const sorted = run.clients.accuracy?.[modelOfAccuracy()]?.sorted ?? [];
  return sorted.length > 0 ? quantile(sorted, 0.1) : null;
};

const reach = (level) => (run) => bytesToReach(run, state.accuracy, level);
const at = (budget) => (run) => accuracyAt(run, state.accuracy, budget);
const overDrawn = (group, figure) => spreadOf(drawnRuns(group.runs, state.accuracy).map(figure));
const reachOf = (group, level) => overDrawn(group, reach(level));

// ---- the answer

function headline(seen) {
  if (seen.groups.length === 0)
    return [
      el(
        "p",
        { class: "empty" },
        seen.matching.length === 0 ? "No run matches the filter." : "No run has figures to compare yet.",
      ),
    ];
  return [mostAccurate(seen), fewestBytes(seen)].filter(Boolean);
}

function figureCard(title, group, number, unit, lines) {
  return el(
    "div",
    { class: "card" },
    el("h3", {}, title),
    el("p", { class: "figure" }, number, el("span", { class: "unit" }, ` ${unit}`)),
    el("p", { class: "who" }, swatch(group.look), el("strong", {}, group.label)),
    lines.map((line) => el("p", { class: "quiet" }, line)),
  );
}

function mostAccurate(seen) {
  const ranked = seen.groups
    .map((group) => ({ group, ...groupFigures(group) }))
    .filter((each) => each.accuracy.n > 0)
    .sort((a, b) => b.accuracy.mean - a.accuracy.mean);
  if (ranked.length === 0) return null;
  const [best, second] = ranked;
  const { mean: middle, sd, n } = best.accuracy;
  const lines = [`${bytesText(best.bytes.mean)} and ${flopsText(best.flops.mean)}${deviationText(n)}`];
  if (second !== undefined) lines.push(leadText(best, second));
  return figureCard("Most accurate", best.group, plusMinus(100 * middle, 100 * sd, 1), "%", lines);
}

const deviationText = (n) => (n > 1 ? `; ± is the standard deviation of ${n} runs` : "; one run");

// Compared on the seeds that both share, where the second may well be ahead.
function leadText(best, second) {
  const lead = paired(best.group, second.group, (run) => run.final[state.accuracy] ?? null, differenceOf);
  const points = 100 * (lead.n > 0 ? lead.mean : best.accuracy.mean - second.accuracy.mean);
  const side = points < 0 ? "below" : "above";
  const text = `${fixed(Math.abs(points), 1)} points ${side} ${second.group.label}${seedsText(lead)}`;
  return lead.byChance ? `${text}, ${BY_CHANCE}` : text;
}

// Which seeds a comparison uses, if not all of both.
function seedsText({ n, seeds }) {
  if (n === 0) return ", from different seeds";
  if (n === seeds) return n === 1 ? ", from one seed: no interval" : "";
  return n === 1 ? ", on the one shared seed: no interval" : `, on the ${n} shared seeds`;
}

function fewestBytes(seen) {
  const levels = levelsNow(seen);
  const level = levels[Math.floor(levels.length / 2)];
  if (level === undefined) return null;
  const ranked = seen.groups
    .map((group) => ({ group, sent: reachOf(group, level) }))
    .filter((each) => each.sent.n > 0 && each.sent.n === each.sent.of)
    .sort((a, b) => a.sent.mean - b.sent.mean);
  if (ranked.length === 0) return null;
  const [best, ...rest] = ranked;
  const scale = columnScale([best.sent.mean], BYTES);
  const other = rest.find((each) => each.group.family !== best.group.family) ?? rest[0];
  const many = `${ranked.length} of ${seen.groups.length} groups reach it with every seed`;
  const lines = [`${many}${deviationText(best.sent.n)}`];
  if (other !== undefined) {
    const times = paired(other.group, best.group, reach(level), ratioOf);
    const ratio = times.n > 0 ? ratioText(times) : fixed(other.sent.mean / best.sent.mean, 2);
    const chance = times.byChance ? `, ${BY_CHANCE}` : "";
    lines.push(`${other.group.label} needs ${ratio} times as many${seedsText(times)}${chance}`);
  }
  const sd = Number.isFinite(best.sent.sd) ? el("span", { class: "sd" }, ` ± ${scale.text(best.sent.sd)}`) : null;
  return figureCard(
    `Fewest bytes to ${fixed(100 * level, 0)} %`,
    best.group,
    [scale.text(best.sent.mean), sd],
    scale.unit,
    lines,
  );
}

function groupColumns(figures, level) {
  const sizes = columnScale(
    figures.map((each) => each.bytes.mean),
    BYTES,
  );
  const flops = columnScale(
    figures.map((each) => each.flops.mean),
    FLOPS,
  );
  const toLevel = columnScale(
    figures.map((each) => each.reached.mean),
    BYTES,
  );
  const range = accuracyRange(figures);
  return [
    {
      key: "label",
      name: "Method",
      left: true,
      of: (each) => each.group.label,
      cell: (each) => groupToggle(each.group, "groups"),
    },
    {
      key: "accuracy",
      name: "Accuracy",
      unit: "%",
      of: (each) => each.accuracy.mean,
      cell: (each) => plusMinus(100 * each.accuracy.mean, 100 * each.accuracy.sd, 1),
    },
    { name: el("span", { class: "unseen" }, "Seeds"), left: true, cell: (each) => dots(each, range) },
    {
      key: "bytes",
      name: "Bytes",
      unit: sizes.unit,
      of: (each) => each.bytes.mean,
      cell: (each) => [sizes.text(each.bytes.mean), spreadText(each.bytes, sizes)],
    },
    {
      name: "Up / down",
      unit: sizes.unit,
      cell: (each) => `${sizes.text(each.up.mean)} / ${sizes.text(each.down.mean)}`,
    },
    {
      key: "reached",
      name: level === undefined ? "To a level" : `To ${fixed(100 * level, 0)} %`,
      unit: toLevel.unit,
      of: (each) => each.reached.mean,
      cell: (each) => reachCell(each.reached, toLevel),
    },
    {
      key: "time",
      name: "Deployed",
      unit: "h:m:s",
      hint: timeWords(),
      of: (each) => each.time.mean,
      cell: (each) => durationText(each.time.mean),
    },
    {
      key: "formula",
      name: "By formula",
      unit: sizes.unit,
      hint: "The papers' formula: 32 bits per value, one bit per position; measured bytes are what was sent",
      of: (each) => each.formula.mean,
      cell: (each) => el("span", { class: "quiet" }, sizes.text(each.formula.mean)),
    },
    {
      key: "tenth",
      name: "Worst tenth",
      unit: "%",
      hint: "The accuracy that a tenth of the clients do not exceed",
      of: (each) => each.tenth.mean,
      cell: (each) => fixed(100 * each.tenth.mean, 1),
    },
    {
      key: "flops",
      name: "Training",
      unit: flops.unit,
      of: (each) => each.flops.mean,
      cell: (each) => flops.text(each.flops.mean),
    },
    {
      name: "Front",
      hint: "No other group is more accurate for fewer bytes",
      cell: (each) => (each.onFront ? el("span", {}, "●", el("span", { class: "unseen" }, "on the front")) : ""),
    },
    { name: "n", cell: (each) => String(each.group.runs.length) },
  ];
}

function groupTable(seen) {
  const levels = levelsNow(seen);
  const level = levels[Math.floor(levels.length / 2)];
  const figures = seen.groups.map((group) => ({
    group,
    ...groupFigures(group),
    reached: level === undefined ? spreadOf([]) : reachOf(group, level),
  }));
  const front = paretoFront(figures.map((each) => ({ x: each.bytes.mean, y: each.accuracy.mean, each })));
  for (const each of figures) each.onFront = front.some((point) => point.each === each);
  const columns = groupColumns(figures, level);
  const [by, down] = state.groupSort;
  const best = Object.fromEntries(
    columns.filter((column) => column.key in BETTER).map((column) => [column.key, bestOf(figures, column)]),
  );
  const rows = sortedBy(figures, columns.find((column) => column.key === by) ?? columns[1], down).map((each) => ({
    class: state.hidden.includes(each.group.label) ? "off" : "",
    cells: columns.map((column) =>
      column.key in best && column.of(each) === best[column.key]
        ? el("span", { class: "best" }, column.cell(each))
        : column.cell(each),
    ),
  }));
  return table({
    caption: `Methods: ${data.accuracies[state.accuracy]}, mean ± standard deviation over n runs`,
    columns,
    rows,
    sort: sorting("groupSort"),
  });
}

// The best figure of each column, if there is more than one; for bytes to a level only whole groups count.
const BETTER = { accuracy: 1, bytes: -1, reached: -1, time: -1, flops: -1, tenth: 1 };
function bestOf(figures, column) {
  const whole = figures.filter((each) => column.key !== "reached" || each.reached.n === each.reached.of);
  const values = whole.map(column.of).filter(Number.isFinite);
  if (values.length < 2 || new Set(values).size === 1) return NaN;
  return BETTER[column.key] > 0 ? Math.max(...values) : Math.min(...values);
}

const timeWords = () =>
  `The time of a deployment: by a run's own model of time, else with a round's clients in parallel, ` +
  `each at ${state.uplink} Mbit/s up, ${state.downlink} down and ${state.device} GFLOP/s`;

// A second click on a heading reverses the order; figures start with the largest if that is the best.
function sorting(place) {
  const [by, down] = state[place];
  const set = (key) => {
    state[place] = [key, by === key ? !down : BETTER[key] > 0];
    render();
  };
  return { by, down, set, place };
}

const spreadText = (spread, scale) =>
  Number.isFinite(spread.sd) && spread.sd > 0 ? el("span", { class: "sd" }, ` ± ${scale.text(spread.sd)}`) : null;

function reachCell(spread, scale) {
  if (spread.n === 0) return el("span", { class: "none" }, spread.of === 0 ? "no curve" : "not reached");
  return [
    scale.text(spread.mean),
    spreadText(spread, scale),
    someRuns(spread),
  ];
}

const someRuns = ({ n, of }) => n < of && el("span", { class: "sub" }, `${n} of ${of} runs`);

function groupToggle(group, place) {
  const toggle = () => {
    const off = state.hidden.includes(group.label);
    state.hidden = off ? state.hidden.filter((label) => label !== group.label) : [...state.hidden, group.label];
    say(`${group.label} ${off ? "shown" : "hidden"}`);
    render();
  };
  return el(
    "button",
    {
      type: "button",
      class: "key",
      id: `${place}-${group.label}`,
      "aria-pressed": String(!state.hidden.includes(group.label)),
      title: "Show or hide in the plots",
      onclick: toggle,
    },
    swatch(group.look),
    el("span", {}, group.label),
  );
}

function accuracyRange(figures) {
  const values = figures
    .flatMap((each) => each.group.runs.map((run) => run.final[state.accuracy]))
    .filter(Number.isFinite);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = Math.max((high - low) * 0.06, 0.002);
  return [low - room, high + room];
}

// One dot per seed, a line over mean ± sd.
function dots({ group, accuracy }, [low, high]) {
  const width = 120;
  const place = (value) => 4 + ((width - 8) * (value - low)) / (high - low);
  const values = group.runs.map((run) => run.final[state.accuracy]).filter(Number.isFinite);
  const sd = Number.isFinite(accuracy.sd) ? accuracy.sd : 0;
  if (values.length === 0) return "";
  return svg(
    "svg",
    { class: "dots", viewBox: `0 0 ${width} 16`, width, height: 16, "aria-hidden": "true" },
    svg("line", { class: "rail", x1: 0, x2: width, y1: 8, y2: 8 }),
    svg("line", {
      x1: Math.max(place(accuracy.mean - sd), 0),
      x2: Math.min(place(accuracy.mean + sd), width),
      y1: 8,
      y2: 8,
      stroke: group.look.color,
      "stroke-width": 2,
    }),
    values.map((value) => svg("circle", { cx: place(value), cy: 8, r: 2.4, fill: group.look.color, opacity: 0.45 })),
    mark(group.look.symbol, place(accuracy.mean), 8, group.look.color),
  );
}
