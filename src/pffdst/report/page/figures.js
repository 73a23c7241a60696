// The accuracy plots: what each draws and the sentence that describes it.

const X_AXES = {
  round: { words: "round", of: (point) => point.round, text: (x) => `round ${x}`, axis: { tickformat: "d" } },
  bytes: { words: "sent, both directions", of: (point) => point.bytes, text: bytesText, units: BYTES },
  time: {
    words: "time of a deployment",
    of: (p) =>
      Number.isFinite(p.seconds) ? p.seconds : deploymentSeconds(p.up, p.bytes - p.up, p.flops, p.cohort, state),
    text: durationText,
    units: null,
  },
  flops: { words: "training", of: (point) => point.flops, text: flopsText, units: FLOPS },
};
// A mean's place is given, a run's follows from its costs.
const placeOf = (point) => point.x ?? X_AXES[state.x].of(point);

// The same with figures in the axis' unit.
function axisFor(values) {
  const chosen = { ...X_AXES[state.x], of: placeOf };
  if (state.x === "round") return { ...chosen, title: chosen.words };
  if (isLog()) return { ...chosen, title: chosen.words, axis: {} };
  const most = Math.max(...values.filter(Number.isFinite), 1);
  const times = most > 7200 ? [3600, "h"] : most > 120 ? [60, "min"] : [1, "s"];
  const { scale, unit } = chosen.units === null ? { scale: times[0], unit: times[1] } : unitOf([most], chosen.units);
  return {
    ...chosen,
    of: (point) => chosen.of(point) / scale,
    text: (x) => chosen.text(x * scale),
    title: `${chosen.words}, ${unit}`,
    axis: {},
  };
}
const isLog = () => state.log ?? state.x === "flops";

const DRAWN = 1200; // places of a line, evenly spaced: for drawing, never for a figure

// Mean curves of groups, and those that have none in words.
function meanCurves(groups, axis = X_AXES[state.x], most = DRAWN) {
  const all = groups.map((group) => ({ group, points: meanCurve(group.runs, state.accuracy, axis.of, most) }));
  const told = all.filter(({ points }) => points.length === 0).map(({ group }) => `${group.label} (${undrawn(group)})`);
  return {
    found: all.filter(({ points }) => points.length > 0),
    missing: told.length === 0 ? "" : `Not drawn: ${told.join("; ")}. `,
  };
}

const undrawn = (group) =>
  drawnRuns(group.runs, state.accuracy).length > 0 ? "seeds share no range" : "no evaluations";

// The end of a group: the accuracy as in the tables, where its runs end.
function endText(group, axisOf) {
  const ends = drawnRuns(group.runs, state.accuracy).map((run) => axisOf.of(pointsOf(run, state.accuracy).at(-1)));
  const [first, last] = [Math.min(...ends), Math.max(...ends)].map(axisOf.text);
  const place = first === last ? first : `${first} to ${last}`;
  return `${group.label} ${percentText(groupFigures(group).accuracy.mean)} at ${place}`;
}

function lineOf(group, points, axisOf, more = {}) {
  return {
    type: "scatter",
    mode: "lines+markers",
    name: plain(group.label),
    x: points.map(axisOf.of),
    y: points.map((p) => 100 * p.y.mean),
    line: { color: group.look.color, dash: group.look.dash, width: 2.2 },
    marker: { symbol: group.look.symbol, size: 7, color: group.look.color, maxdisplayed: 9 },
    ...more,
  };
}

function bandOf(group, points, axisOf) {
  const x = points.map(axisOf.of);
  const edge = (sign) => points.map((p) => 100 * (p.y.mean + sign * (Number.isFinite(p.y.sd) ? p.y.sd : 0)));
  return {
    type: "scatter",
    mode: "lines",
    x: [...x, ...x.toReversed()],
    y: [...edge(1), ...edge(-1).toReversed()],
    fill: "toself",
    fillcolor: faded(group.look.color, 0.13),
    line: { width: 0 },
    hoverinfo: "skip",
    meta: {},
  };
}

function accuracyCurves(seen) {
  const { found: drawnGroups, missing } = meanCurves(seen.shown);
  const axisOf = axisFor(drawnGroups.flatMap(({ points }) => points.map(placeOf)));
  const traces = [];
  for (const { group, points } of drawnGroups) {
    if (state.spread === "band" && group.runs.length > 1) traces.push(bandOf(group, points, axisOf));
    if (state.spread === "runs")
      traces.push(...drawnRuns(group.runs, state.accuracy).map((run) => thinLine(run, group, axisOf)));
    const said = (i) => `${group.label}, ${axisOf.text(axisOf.of(points[i]))}: ${percentText(points[i].y.mean)}`;
    const custom = points.map((p) => [
      Number.isFinite(p.y.sd) ? ` ± ${(100 * p.y.sd).toFixed(1)}` : "",
      axisOf.text(axisOf.of(p)),
      Math.round(p.round),
    ]);
    traces.push(
      lineOf(group, points, axisOf, {
        meta: { said },
        customdata: custom,
        hovertemplate: `<b>%{y:.1f}%{customdata[0]} %</b> ${state.x === "round" ? "" : "at %{customdata[1]}, round %{customdata[2]}"}`,
      }),
    );
  }
  const words = data.accuracies[state.accuracy];
  const layout = curveLayout(drawnGroups, axisOf);
  const ends = drawnGroups.map(({ group }) => endText(group, axisOf));
  const named = layout.annotations.length < drawnGroups.length && !isNarrow();
  const lines =
    state.spread === "band"
      ? "Lines are means over seeds, bands and ± one standard deviation"
      : "Thick lines are means over seeds, thin ones single runs";
  return {
    traces,
    layout,
    empty: missing || undefined,
    label:
      `Line chart of accuracy (${words}) against ${axisOf.words}. ` +
      `At the end: ${ends.join("; ")}. ${missing}Arrow keys read the values.`,
    caption:
      `${words[0].toUpperCase()}${words.slice(1)}, in percent, against ${axisOf.words}. ` +
      `${lines}; a mean ends where the first of its seeds does. ${missing}` +
      `${named ? `The ${layout.annotations.length} highest at the end are named. ` : ""}` +
      "Drag to zoom, double-click to go back.",
  };
}

function thinLine(run, group, axisOf) {
  const points = thinned(pointsOf(run, state.accuracy), DRAWN);
  return {
    type: "scatter",
    mode: "lines",
    x: points.map(axisOf.of),
    y: points.map((point) => 100 * point.share),
    line: { color: faded(group.look.color, 0.45), width: 1 },
    name: plain(nameOf(run)),
    hoverinfo: state.x === "round" ? "skip" : "name",
    meta: {},
  };
}

function curveLayout(drawnGroups, axisOf) {
  const values = drawnGroups.flatMap(({ points }) => points.flatMap((p) => [100 * p.y.mean]));
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const span = high - low || 1;
  const xs = drawnGroups.flatMap(({ points }) => points.map(axisOf.of));
  const labels = isNarrow()
    ? []
    : endLabels(
        drawnGroups.map(({ group, points }) => ({
          y: 100 * points.at(-1).y.mean,
          text: group.label,
          color: group.look.color,
        })),
        (1.05 * span * 18) / 340,
        [low, low + span],
      );
  const widest = Math.min(36, Math.max(...drawnGroups.map(({ group }) => group.label.length), 4));
  return layoutOf({
    xaxis: axis(axisOf.title, {
      ...axisOf.axis,
      ...(isLog() ? logAxis(xs, state.x === "round" ? String : axisOf.text) : { rangemode: "tozero" }),
    }),
    yaxis: axis("accuracy, %", { ticksuffix: "" }),
    annotations: labels,
    hovermode: state.x === "round" ? "x unified" : "closest",
    margin: { l: 52, r: isNarrow() ? 12 : Math.min(300, 24 + 6.9 * widest), t: 8, b: 44 },
    uirevision: `${state.x} ${isLog()} ${state.accuracy}`,
  });
}

function curvesTable(seen) {
  const { found: curves, missing } = meanCurves(seen.shown, X_AXES.round, Infinity);
  const longest = curves.reduce((most, each) => (each.points.length > most.length ? each.points : most), []);
  const picked = longest
    .filter((_, i) => longest.length <= 12 || i === longest.length - 1 || i % Math.ceil(longest.length / 11) === 0)
    .map((p) => p.round);
  const columns = [{ name: "Round" }, ...curves.map(({ group }) => ({ name: group.label, unit: "%, sent" }))];
  const rows = picked.map((t) => ({
    cells: [
      String(t),
      ...curves.map(({ points }) => {
        const point = points.find((each) => each.round === t);
        return point === undefined
          ? ABSENT
          : [plusMinus(100 * point.y.mean, 100 * point.y.sd, 1), el("span", { class: "sub" }, bytesText(point.bytes))];
      }),
    ],
  }));
  return table({
    caption:
      `${data.accuracies[state.accuracy]} over rounds, mean ± standard deviation over seeds, ` +
      `with the bytes sent by then. ${missing}`,
    columns,
    rows,
  });
}

// ---- accuracy for bytes

function pareto(seen) {
  const points = seen.shown
    .map((group) => ({ group, ...groupFigures(group) }))
    .filter((each) => each.accuracy.n > 0 && each.bytes.n > 0);
  const front = paretoFront(points.map((each) => ({ x: each.bytes.mean, y: each.accuracy.mean, group: each.group })));
  const traces = [
    {
      type: "scatter",
      mode: "lines",
      x: front.map((p) => p.x),
      y: front.map((p) => 100 * p.y),
      line: { color: css("--quiet"), width: 1.2, shape: "hv", dash: "dot" },
      hoverinfo: "skip",
      meta: {},
    },
  ];
  for (const { group, accuracy, bytes } of points) {
    traces.push({
      type: "scatter",
      mode: "markers",
      x: group.runs.map(totalBytes),
      y: group.runs.map((run) => 100 * run.final[state.accuracy]),
      marker: { size: 5, color: faded(group.look.color, 0.4) },
      hoverinfo: "skip",
      meta: {},
    });
    const said = () => `${group.label}: ${percentText(accuracy.mean)} for ${bytesText(bytes.mean)}`;
    traces.push({
      type: "scatter",
      mode: "markers",
      x: [bytes.mean],
      y: [100 * accuracy.mean],
      marker: {
        symbol: group.look.symbol,
        size: 12,
        color: group.look.color,
        line: { width: 1.5, color: css("--paper") },
      },
      error_y: {
        type: "data",
        array: [100 * (Number.isFinite(accuracy.sd) ? accuracy.sd : 0)],
        color: group.look.color,
        thickness: 1.4,
        width: 0,
      },
      meta: { said },
      hovertemplate: `<b>${plain(group.label)}</b><br>%{y:.1f} %, ${bytesText(bytes.mean)}<extra></extra>`,
    });
  }
  const xs = points.map((each) => each.bytes.mean);
  const reached = points.flatMap(({ accuracy: { mean: middle, sd } }) =>
    [middle, middle - (sd || 0), middle + (sd || 0)].map((share) => 100 * share),
  );
  return {
    traces: points.length > 0 ? traces : [],
    layout: layoutOf({
      xaxis: axis("bytes sent, both directions", { ...logAxis(xs, bytesText), range: paddedLog(xs) }),
      yaxis: axis("accuracy, %", { range: paddedShare(reached) }),
      annotations: isNarrow() || points.length === 0 ? [] : pointLabels(points, front, plotSize("plot-pareto"), paddedShare(reached)),
      uirevision: state.accuracy,
    }),
    label: `Accuracy against bytes sent. ${points.map((each) => `${each.group.label}: ${percentText(each.accuracy.mean)} for ${bytesText(each.bytes.mean)}`).join("; ")}.`,
    caption:
      points.length > 0
        ? "The dotted line is the front: no other group is more accurate for fewer bytes. The table above marks those " +
          "on it. Bars are one standard deviation over runs."
        : "",
  };
}

// The room left for points between the axis labels.
const plotSize = (id) => ({ width: byId(id).clientWidth - 66, height: byId(id).clientHeight - 52 });

function paddedShare(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = 0.08 * (high - low || 1);
  return [low - room, high + room];
}

function paddedLog(values) {
  const logs = values.filter((value) => value > 0).map(Math.log10);
  const [low, high] = [Math.min(...logs), Math.max(...logs)];
  const room = Math.max(0.12 * (high - low), 0.12);
  return [low - room, high + room];
}

// Next to their points, those of the front first: each takes the first place that covers no label, point or front;
// if there is none, the name is only in the legend and on hover.
function pointLabels(points, front, size, [bottom, top]) {
  const logs = points.map((each) => Math.log10(each.bytes.mean));
  const ys = points.map((each) => 100 * each.accuracy.mean);
  const range = paddedLog(points.map((each) => each.bytes.mean));
  const at = (x, y) => [
    (size.width * (x - range[0])) / (range[1] - range[0]),
    (size.height * (top - y)) / (top - bottom),
  ];
  const places = points.map((_, i) => at(logs[i], ys[i]));
  const taken = places.map(([x, y]) => [x - 7, x + 7, y - 7, y + 7]);
  front.slice(1).forEach((point, i) => {
    const [x0, y0] = at(Math.log10(front[i].x), 100 * front[i].y);
    const [x1, y1] = at(Math.log10(point.x), 100 * point.y);
    taken.push([x0, x1, y0 - 1, y0 + 1], [x1 - 1, x1 + 1, y1, y0]);
  });
  const isFront = (i) => front.some((point) => point.group === points[i].group);
  const order = points.map((_, i) => i).sort((a, b) => isFront(b) - isFront(a) || ys[b] - ys[a]);
  return order.map((i) => labelAt(points[i].group, [logs[i], ys[i]], places[i], taken, size)).filter(Boolean);
}

function labelAt(group, [logX, y], [px, py], taken, size) {
  const text = brief(group.label, 34);
  const [long, high] = [6.6 * Math.min(group.label.length, 34) + 6, 17];
  const spots = [
    ["left", "middle", 10, 0],
    ["right", "middle", -10, 0],
    ["center", "bottom", 0, 9],
    ["center", "top", 0, -9],
    ["left", "bottom", 8, 7],
    ["right", "bottom", -8, 7],
    ["left", "top", 8, -7],
    ["right", "top", -8, -7],
    ["left", "bottom", 8, 20],
    ["right", "top", -8, -20],
  ];
  for (const [xanchor, yanchor, dx, dy] of spots) {
    const x = px + dx - { left: 0, center: long / 2, right: long }[xanchor];
    const v = py - dy - { top: 0, middle: high / 2, bottom: high }[yanchor];
    const box = [x, x + long, v, v + high];
    const inside = box[0] >= 0 && box[1] <= size.width && box[2] >= 0 && box[3] <= size.height;
    if (!inside || taken.some((o) => box[0] < o[1] && o[0] < box[1] && box[2] < o[3] && o[2] < box[3])) continue;
    taken.push(box);
    const font = { size: 12, color: group.look.color };
    return { x: logX, y, xanchor, yanchor, xshift: dx, yshift: dy, text, font, showarrow: false };
  }
  return null;
}
