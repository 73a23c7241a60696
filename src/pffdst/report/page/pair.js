// Two groups, or two runs, side by side: their figures, the difference seed by seed, and their curves.

// What can be chosen, by its key in the address: groups by label, runs by name.
function sides(seen) {
  const groups = seen.groups.map((group) => [`group:${group.label}`, group]);
  const alone = seen.counted.map((run) => {
    const group = seen.groups.find((each) => each.runs.includes(run));
    return [`run:${run.id}`, { ...group, label: `${group.label}, seed ${run.config.seed ?? ABSENT}`, runs: [run] }];
  });
  return new Map([...groups, ...alone]);
}

function chosenPair(seen) {
  const known = sides(seen);
  const ranked = seen.groups.toSorted((a, b) => (groupFigures(b).accuracy.mean || 0) - (groupFigures(a).accuracy.mean || 0));
  const other = (taken) => ranked.find((group) => group !== taken && group.runs[0].config.method_name !== taken?.runs[0].config.method_name);
  const left = known.get(state.left) ?? ranked[0];
  return [left, known.get(state.right) ?? other(left) ?? ranked.find((group) => group !== left)];
}

function pairChoices(seen) {
  const known = [...sides(seen)];
  const [left, right] = chosenPair(seen);
  const words = ([key, side]) => [key, key.startsWith("run:") ? `run: ${side.label}` : side.label];
  for (const [id, side] of [
    ["left", left],
    ["right", right],
  ]) {
    const now = known.find(([, each]) => each.label === side?.label)?.[0] ?? "";
    options(`pair-${id}`, known.map(words), known.some(([key]) => key === state[id]) ? state[id] : now);
  }
}

// Name, figure of a run, how it is formatted, and how two of them are compared.
function pairRows(seen) {
  const points = (value) => `${fixed(100 * value, 1)} %`;
  const final = (key) => (run) => run.final[key] ?? null;
  const finite = (figure) => (run) => (Number.isFinite(figure(run)) ? figure(run) : null);
  return [
    ["Accuracy", final(state.accuracy), points, differenceOf],
    ["Worst tenth of the clients", worstTenth, points, differenceOf],
    ["Bytes, both directions", finite(totalBytes), bytesText, ratioOf],
    ["Bytes up", final("bytes_up"), bytesText, ratioOf],
    ["Bytes down", final("bytes_down"), bytesText, ratioOf],
    ...levelsNow(seen).map((level) => [`Bytes to ${fixed(100 * level, 0)} %`, reach(level), bytesText, ratioOf]),
    ["Time of a deployment", finite(timeOf), durationText, ratioOf],
    ["By the papers' formula", formulaBytes, bytesText, ratioOf],
    ["Training", final("flops"), flopsText, ratioOf],
    ["Time of the run", final("wall_s"), durationText, ratioOf],
  ];
}

function pairTable(seen) {
  const [left, right] = chosenPair(seen);
  if (left === undefined || right === undefined) return el("p", { class: "empty" }, "There is only one group.");
  const told = (side, figure, text) => {
    const spread = spreadOf(side.runs.map(figure));
    return spread.n === 0
      ? el("span", { class: "none" }, ABSENT)
      : [text(spread.mean), someRuns(spread)];
  };
  const columns = [
    { name: "Figure", left: true },
    ...[left, right].map((side) => ({ name: el("span", { class: "named" }, swatch(side.look), side.label) })),
    { name: "Second vs. first" },
  ];
  const rows = pairRows(seen).map(([name, figure, text, compare]) => ({
    cells: [name, told(left, figure, text), told(right, figure, text), comparedText(left, right, figure, compare)],
  }));
  return table({ caption: "Two groups or runs side by side, means over runs", columns, rows });
}

function comparedText(left, right, figure, compare) {
  const single = left.runs.length === 1 && right.runs.length === 1;
  const against = single
    ? ofTwoRuns(right.runs[0], left.runs[0], figure, compare)
    : paired(right, left, figure, compare);
  if (against.n === 0) return el("span", { class: "none" }, ABSENT);
  return [compare === ratioOf ? ratioText(against, " ×") : pointsText(against), doubtLine(against)];
}

// Two runs are compared whatever their seeds.
function ofTwoRuns(run, other, figure, compare) {
  const both = [figure(run), figure(other)];
  return { ...compared([both.includes(null) ? null : compare(...both)], compare), seeds: 1, single: true };
}

function pairCurves(seen) {
  const both = chosenPair(seen).filter(Boolean);
  const { found, missing } = meanCurves(both);
  const axisOf = axisFor(found.flatMap(({ points }) => points.map(placeOf)));
  const traces = found.flatMap(({ group, points }) => [
    ...(group.runs.length > 1 ? [bandOf(group, points, axisOf)] : []),
    lineOf(group, points, axisOf, {
      meta: { said: (i) => `${group.label}, ${axisOf.text(axisOf.of(points[i]))}: ${percentText(points[i].y.mean)}` },
      hovertemplate: `${plain(group.label)}: <b>%{y:.1f} %</b><extra></extra>`,
    }),
  ]);
  const ends = found.map(({ group }) => endText(group, axisOf));
  return {
    traces,
    empty: missing || undefined,
    layout: { ...curveLayout(found, axisOf, ""), annotations: [], margin: { l: 52, r: 12, t: 8, b: 44 } },
    label: `The two curves of accuracy against ${axisOf.words}. At the end: ${ends.join("; ")}. ${missing}`,
    caption: `Against the same axis as the curves above; bands are one standard deviation. ${missing}`,
  };
}
