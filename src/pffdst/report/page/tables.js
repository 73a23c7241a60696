// The tables: groups, figures at equal accuracy and bytes, runs, differences, what was left out.

function groupFigures(group) {
  const over = (key) => spreadOf(group.runs.map((run) => run.final[key] ?? null));
  return {
    accuracy: over(state.accuracy), flops: over("flops"), up: over("bytes_up"), down: over("bytes_down"),
    bytes: spreadOf(group.runs.map(totalBytes).map((value) => (Number.isFinite(value) ? value : null))),
  };
}

const reach = (level) => (run) => bytesToReach(run, state.accuracy, level);
const at = (budget) => (run) => accuracyAt(run, state.accuracy, budget);
const overDrawn = (group, figure) => spreadOf(drawnRuns(group.runs, state.accuracy).map(figure));
const reachOf = (group, level) => overDrawn(group, reach(level));

// ---- the answer

function headline(seen) {
  if (seen.groups.length === 0) return [el("p", { class: "empty" }, seen.matching.length === 0 ? "No run matches the filter." : "No run has figures to compare yet.")];
  return [mostAccurate(seen), fewestBytes(seen)].filter(Boolean);
}

function figureCard(title, group, number, unit, lines) {
  return el("div", { class: "card" }, el("h3", {}, title),
    el("p", { class: "figure" }, number, el("span", { class: "unit" }, ` ${unit}`)),
    el("p", { class: "who" }, swatch(group.look), el("strong", {}, group.label)),
    lines.map((line) => el("p", { class: "quiet" }, line)));
}

function mostAccurate(seen) {
  const ranked = seen.groups.map((group) => ({ group, ...groupFigures(group) })).filter((each) => each.accuracy.n > 0)
    .sort((a, b) => b.accuracy.mean - a.accuracy.mean);
  if (ranked.length === 0) return null;
  const [best, second] = ranked;
  const { mean: middle, sd, n } = best.accuracy;
  const lines = [`${bytesText(best.bytes.mean)} and ${flopsText(best.flops.mean)}, n = ${n}`];
  if (second !== undefined) lines.push(leadText(best, second));
  return figureCard("Most accurate", best.group, plusMinus(100 * middle, 100 * sd, 1), "%", lines);
}

// A lead smaller than the seeds' own spread is no lead.
function leadText(best, second) {
  const lead = paired(best.group, second.group, (run) => run.final[state.accuracy] ?? null, differenceOf);
  const points = 100 * (lead.n > 0 ? lead.mean : best.accuracy.mean - second.accuracy.mean);
  const doubt = lead.n > 1 && Math.abs(lead.mean) <= lead.sd ? ", less than the spread between seeds" : lead.n < 2 ? ", from one seed" : "";
  return `${fixed(points, 1)} points above ${second.group.label}${doubt}`;
}

function fewestBytes(seen) {
  const levels = levelsNow(seen);
  const level = levels[Math.floor(levels.length / 2)];
  if (level === undefined) return null;
  const ranked = seen.groups.map((group) => ({ group, sent: reachOf(group, level) })).filter((each) => each.sent.n > 0 && each.sent.n === each.sent.of)
    .sort((a, b) => a.sent.mean - b.sent.mean);
  if (ranked.length === 0) return null;
  const [best, ...rest] = ranked;
  const scale = columnScale([best.sent.mean], BYTES);
  const other = rest.find((each) => each.group.family !== best.group.family) ?? rest[0];
  const lines = [`${ranked.length} of ${seen.groups.length} groups reach it with every seed`];
  if (other !== undefined) {
    const times = paired(other.group, best.group, reach(level), ratioOf);
    lines.push(`${other.group.label} needs ${fixed(times.mean, 2)}${Number.isFinite(times.sd) ? ` ± ${fixed(times.sd, 2)}` : ""} times as many`);
  }
  const sd = Number.isFinite(best.sent.sd) ? el("span", { class: "sd" }, ` ± ${scale.text(best.sent.sd)}`) : null;
  return figureCard(`Fewest bytes to ${fixed(100 * level, 0)} %`, best.group, [scale.text(best.sent.mean), sd], scale.unit, lines);
}

function groupColumns(figures, level) {
  const sizes = columnScale(figures.map((each) => each.bytes.mean), BYTES);
  const flops = columnScale(figures.map((each) => each.flops.mean), FLOPS);
  const toLevel = columnScale(figures.map((each) => each.reached.mean), BYTES);
  const range = accuracyRange(figures);
  return [
    { key: "label", name: "Method", left: true, of: (each) => each.group.label, cell: (each) => groupToggle(each.group, "groups") },
    { key: "accuracy", name: "Accuracy", unit: "%", of: (each) => each.accuracy.mean, cell: (each) => plusMinus(100 * each.accuracy.mean, 100 * each.accuracy.sd, 1) },
    { name: el("span", { class: "unseen" }, "Seeds"), left: true, cell: (each) => dots(each, range) },
    { key: "bytes", name: "Bytes", unit: sizes.unit, of: (each) => each.bytes.mean, cell: (each) => [sizes.text(each.bytes.mean), spreadText(each.bytes, sizes)] },
    { name: "Up / down", unit: sizes.unit, cell: (each) => `${sizes.text(each.up.mean)} / ${sizes.text(each.down.mean)}` },
    { key: "reached", name: level === undefined ? "To a level" : `To ${fixed(100 * level, 0)} %`, unit: toLevel.unit, of: (each) => each.reached.mean, cell: (each) => reachCell(each.reached, toLevel) },
    { key: "flops", name: "Training", unit: flops.unit, of: (each) => each.flops.mean, cell: (each) => flops.text(each.flops.mean) },
    { name: "n", cell: (each) => String(each.group.runs.length) },
  ];
}

function groupTable(seen) {
  const levels = levelsNow(seen);
  const level = levels[Math.floor(levels.length / 2)];
  const figures = seen.groups.map((group) => ({ group, ...groupFigures(group), reached: level === undefined ? spreadOf([]) : reachOf(group, level) }));
  const columns = groupColumns(figures, level);
  const [by, down] = state.groupSort;
  const best = Math.max(...figures.map((each) => (each.accuracy.n > 0 ? each.accuracy.mean : -1)));
  const rows = sortedBy(figures, columns.find((column) => column.key === by) ?? columns[1], down).map((each) => ({
    class: [each.accuracy.mean === best ? "best" : "", state.hidden.includes(each.group.label) ? "off" : ""].join(" "),
    cells: columns.map((column) => column.cell(each)),
  }));
  return table({ caption: `Methods: ${data.accuracies[state.accuracy]}, mean ± standard deviation over n seeds`, columns, rows, sort: sorting("groupSort") });
}

// A second click on a heading turns the order round; figures begin with the largest where that is the best.
function sorting(place) {
  const [by, down] = state[place];
  const set = (key) => {
    state[place] = [key, by === key ? !down : key === "accuracy"];
    render();
  };
  return { by, down, set, place };
}

const spreadText = (spread, scale) => (Number.isFinite(spread.sd) && spread.sd > 0 ? el("span", { class: "sd" }, ` ± ${scale.text(spread.sd)}`) : null);

function reachCell(spread, scale) {
  if (spread.n === 0) return el("span", { class: "none" }, spread.of === 0 ? "no curve" : "not reached");
  return [scale.text(spread.mean), spreadText(spread, scale), spread.n < spread.of && el("span", { class: "sub" }, `${spread.n} of ${spread.of} runs`)];
}

function groupToggle(group, place) {
  const toggle = () => {
    const off = state.hidden.includes(group.label);
    state.hidden = off ? state.hidden.filter((label) => label !== group.label) : [...state.hidden, group.label];
    say(`${group.label} ${off ? "shown" : "hidden"}`);
    render();
  };
  return el("button", { type: "button", class: "key", id: `${place}-${group.label}`, "aria-pressed": String(!state.hidden.includes(group.label)),
    title: "Show or hide in the plots", onclick: toggle }, swatch(group.look), el("span", {}, group.label));
}

function accuracyRange(figures) {
  const values = figures.flatMap((each) => each.group.runs.map((run) => run.final[state.accuracy])).filter(Number.isFinite);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = Math.max((high - low) * 0.06, 0.002);
  return [low - room, high + room];
}

// One dot per seed, a line over mean ± sd.
function dots({ group, accuracy }, [low, high]) {
  const width = 170;
  const place = (value) => 4 + (width - 8) * (value - low) / (high - low);
  const values = group.runs.map((run) => run.final[state.accuracy]).filter(Number.isFinite);
  const sd = Number.isFinite(accuracy.sd) ? accuracy.sd : 0;
  if (values.length === 0) return "";
  return svg("svg", { class: "dots", viewBox: `0 0 ${width} 16`, width, height: 16, "aria-hidden": "true" },
    svg("line", { class: "rail", x1: 0, x2: width, y1: 8, y2: 8 }),
    svg("line", { x1: Math.max(place(accuracy.mean - sd), 0), x2: Math.min(place(accuracy.mean + sd), width), y1: 8, y2: 8, stroke: group.look.color, "stroke-width": 2 }),
    values.map((value) => svg("circle", { cx: place(value), cy: 8, r: 2.4, fill: group.look.color, opacity: 0.45 })),
    mark(group.look.symbol, place(accuracy.mean), 8, group.look.color));
}

// ---- equal accuracy, equal bytes

// The reference of a column: the group asked for, else the best one of those whose runs all have the figure.
function referenceOf(seen, figure, isBetter) {
  const asked = seen.groups.find((group) => group.label === state.reference);
  if (asked !== undefined) return asked;
  const whole = seen.groups.map((group) => ({ group, spread: overDrawn(group, figure) })).filter(({ spread }) => spread.n > 0 && spread.n === spread.of);
  return whole.sort((a, b) => (isBetter(a.spread.mean, b.spread.mean) ? -1 : 1))[0]?.group;
}

function equalTable(seen, { caption, name, given, figure, isBetter, compare, cell, relative, unit }) {
  const references = given.map((value) => referenceOf(seen, figure(value), isBetter));
  const spreads = seen.groups.map((group) => given.map((value) => overDrawn(group, figure(value))));
  const units = given.map((_, i) => unit(spreads.map((row) => row[i].mean)));
  const columns = [{ name: "Method", left: true }, ...given.map((value, i) => ({ name: name(value), unit: units[i].unit }))];
  const rows = seen.groups.map((group, g) => ({ cells: [
    el("span", { class: "named" }, swatch(group.look), el("span", {}, group.label)),
    ...given.map((value, i) => {
      const against = references[i] === undefined ? null : paired(group, references[i], figure(value), compare);
      return [cell(spreads[g][i], units[i], group, value), against !== null && against.n > 0 && el("span", { class: "sub" }, relative(against, references[i] === group))];
    }),
  ] }));
  return table({ caption, columns, rows });
}

function reachTable(seen) {
  return equalTable(seen, {
    caption: "Bytes to reach an accuracy, mean ± standard deviation over seeds, and times the reference", given: levelsNow(seen), figure: reach,
    name: (level) => `${Number((100 * level).toFixed(1))} %`, isBetter: (a, b) => a < b, compare: ratioOf,
    cell: (spread, scale) => reachCell(spread, scale), unit: (values) => columnScale(values, BYTES),
    relative: (times, own) => (own ? "1 ×" : `${fixed(times.mean, 2)}${Number.isFinite(times.sd) ? ` ± ${fixed(times.sd, 2)}` : ""} ×`),
  });
}

function atTable(seen) {
  return equalTable(seen, {
    caption: "Accuracy at so many bytes, mean ± standard deviation over seeds, and points from the reference", given: budgetsNow(seen), figure: at,
    name: (budget) => bytesText(budget), isBetter: (a, b) => a > b, compare: differenceOf, unit: () => ({ unit: "%" }),
    cell: (spread, _, group, budget) => {
      if (spread.n === 0) return el("span", { class: "none" }, "none yet");
      const spent = spreadOf(group.runs.map(totalBytes)).mean;
      const note = spent < 0.98 * budget && el("span", { class: "sub" }, `all its ${bytesText(spent)}`);
      return [plusMinus(100 * spread.mean, 100 * spread.sd, 1), note];
    },
    relative: (points, own) => (own ? "reference" : `${points.mean > 0 ? "+" : ""}${fixed(100 * points.mean, 1)}${Number.isFinite(points.sd) ? ` ± ${fixed(100 * points.sd, 1)}` : ""} points`),
  });
}

function curvesTable(seen) {
  const curves = seen.shown.map((group) => ({ group, points: meanCurve(group.runs, state.accuracy) })).filter((each) => each.points.length > 0);
  const longest = curves.reduce((most, each) => (each.points.length > most.length ? each.points : most), []);
  const picked = longest.filter((_, i) => longest.length <= 12 || i === longest.length - 1 || i % Math.ceil(longest.length / 11) === 0).map((p) => p.round);
  const columns = [{ name: "Round" }, ...curves.map(({ group }) => ({ name: group.label, unit: "%, sent" }))];
  const rows = picked.map((t) => ({ cells: [String(t), ...curves.map(({ points }) => {
    const point = points.find((each) => each.round === t);
    return point === undefined ? ABSENT : [plusMinus(100 * point.y.mean, 100 * point.y.sd, 1), el("span", { class: "sub" }, bytesText(point.bytes))];
  })] }));
  return table({ caption: `${data.accuracies[state.accuracy]} over rounds, with the bytes sent by then`, columns, rows });
}

// ---- runs

function runColumns(seen) {
  const finals = (key) => (run) => run.final[key] ?? null;
  const scales = Object.fromEntries([["bytes", totalBytes, BYTES], ["up", finals("bytes_up"), BYTES], ["down", finals("bytes_down"), BYTES], ["flops", finals("flops"), FLOPS]]
    .map(([key, figure, units]) => [key, { figure, ...columnScale(seen.matching.map(figure), units) }]));
  const cost = (key, name) => ({ key, name, unit: scales[key].unit, of: scales[key].figure, text: (run) => scales[key].text(scales[key].figure(run) ?? NaN) });
  const share = (key, name) => ({ key, name, unit: "%", of: finals(key), text: (run) => fixed(100 * (finals(key)(run) ?? NaN), 1) });
  const rest = Object.keys(data.accuracies).filter((key) => key !== state.accuracy && key !== "last5_acc_client_mean");
  const names = { ema_acc_global: "Server average", ema_acc_client_mean: "Average, clients", last5_acc_global: "Last 5", last5_acc_client_mean: "Last 5, clients", acc_global: "Last round", acc_client_mean: "Last, clients" };
  return [
    { key: "id", name: "Run", left: true, of: (run) => run.id, text: nameOf },
    { key: "status", name: "Status", left: true, of: (run) => run.status, text: (run) => el("span", { class: `status ${run.status}` }, run.twin ? "duplicate" : run.status) },
    ...seen.keys.map((key) => ({ key, name: keyName(key), left: !seen.matching.every((run) => isNumber(run.config[key])), of: (run) => run.config[key] ?? null, text: (run) => ("rounds" in run.config || key in run.config ? wordOf(key, run.config[key], data.keys.words) : ABSENT) })),
    { key: "seed", name: "Seed", of: (run) => run.config.seed ?? null, text: (run) => String(run.config.seed ?? ABSENT) },
    share(state.accuracy, names[state.accuracy]), ...rest.slice(0, 3).map((key) => share(key, names[key])),
    cost("bytes", "Bytes"), cost("up", "Up"), cost("down", "Down"), cost("flops", "Training"),
    { key: "rounds", name: "Rounds", of: (run) => run.rounds, text: (run) => (run.config.rounds > run.rounds ? `${run.rounds} of ${run.config.rounds}` : String(run.rounds)) },
    { key: "wall_s", name: "Time", unit: "m:s", of: finals("wall_s"), text: (run) => durationText(run.final.wall_s ?? NaN) },
    { key: "peak_rss_mb", name: "Memory", unit: "MB", of: finals("peak_rss_mb"), text: (run) => fixed(run.final.peak_rss_mb ?? NaN, 0) },
  ];
}

function sortedBy(runs, column, down) {
  const absent = (value) => value === null || value === undefined || Number.isNaN(value);
  const natural = new Intl.Collator("en", { numeric: true });
  return [...runs].sort((a, b) => {
    const [x, y] = [column.of(a), column.of(b)];
    if (absent(x) || absent(y)) return absent(x) - absent(y);
    const order = isNumber(x) && isNumber(y) ? x - y : natural.compare(String(x), String(y));
    return down ? -order : order;
  });
}

function runTable(seen) {
  const columns = runColumns(seen);
  const [by, down] = state.sort;
  const sorted = sortedBy(seen.matching, columns.find((column) => column.key === by) ?? columns[0], down);
  const rows = sorted.map((run) => ({
    class: [state.chosen.includes(run.id) ? "chosen" : "", seen.counted.includes(run) ? "" : "off"].join(" "),
    cells: [chooser(run), ...columns.map((column) => column.text(run))],
  }));
  return table({ caption: "Runs", columns: [{ name: el("span", { class: "unseen" }, "Chosen"), left: true }, ...columns], rows, sort: sorting("sort"), rowHead: 1 });
}

function chooser(run) {
  const toggle = (event) => {
    state.chosen = event.target.checked ? [...state.chosen, run.id] : state.chosen.filter((id) => id !== run.id);
    render();
  };
  return el("input", { type: "checkbox", id: `choose-${run.id}`, "aria-label": `Choose ${nameOf(run)}`, checked: state.chosen.includes(run.id), onchange: toggle });
}

// ---- configurations, and what was left out

function differenceTable(seen) {
  const runs = state.chosen.map((id) => data.runs.find((run) => run.id === id)).filter(Boolean);
  const keys = [...new Set(runs.flatMap((run) => Object.keys(run.config)))].filter((key) => new Set(runs.map((run) => JSON.stringify(run.config[key] ?? null))).size > 1);
  const note = runs.length < 2 ? "Choose two runs or more in the table above." : keys.length === 0 ? "Their configurations are the same." : `${keys.length} keys differ.`;
  if (runs.length < 2 || keys.length === 0) return [null, note];
  const columns = [{ name: "Key", left: true }, ...runs.map((run) => ({ name: `${nameOf(run)}: ${withSeed(run, seen.keys)}`, left: true }))];
  const rows = keys.map((key) => ({ cells: [el("code", {}, key), ...runs.map((run) => (key in run.config ? wordOf(key, run.config[key], data.keys.words) : el("span", { class: "none" }, "absent")))] }));
  return [table({ caption: "Configuration keys in which the chosen runs differ", columns, rows }), note];
}

function leftTable() {
  const left = data.runs.filter((run) => !run.counted || run.remarks.length > 0);
  const why = (run) => [...(run.twin ? [`same configuration as ${run.twin}, which is counted`] : []), ...run.remarks, ...(run.counted ? ["its figures are counted"] : [])].join("; ");
  const columns = [{ name: "Run", left: true }, { name: "Status", left: true }, { name: "Why", left: true }];
  const rows = left.map((run) => ({ cells: [nameOf(run), el("span", { class: `status ${run.status}` }, run.twin ? "duplicate" : run.status), why(run)] }));
  return left.length === 0 ? null : table({ caption: "Runs left out of the means, or with remarks", columns, rows });
}
