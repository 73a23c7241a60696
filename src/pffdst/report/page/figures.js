// The pictures of accuracy: what each draws and the sentence that tells it.

const X_AXES = {
  round: { words: "round", of: (point) => point.round, text: (x) => `round ${x}`, axis: { tickformat: "d" } },
  bytes: { words: "bytes sent, both directions", of: (point) => point.bytes, text: bytesText, axis: bytesAxis },
  flops: { words: "training, FLOP", of: (point) => point.flops, text: flopsText, axis: flopsAxis },
};
const isLog = () => state.log ?? state.x === "flops";

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
  const axisOf = X_AXES[state.x];
  const drawnGroups = seen.shown
    .map((group) => ({ group, points: meanCurve(group.runs, state.accuracy) }))
    .filter(({ points }) => points.length > 0);
  const traces = [];
  for (const { group, points } of drawnGroups) {
    if (state.spread === "band" && group.runs.length > 1) traces.push(bandOf(group, points, axisOf));
    if (state.spread === "runs")
      traces.push(...drawnRuns(group.runs, state.accuracy).map((run) => thinLine(run, group)));
    const said = (i) => `${group.label}, ${axisOf.text(axisOf.of(points[i]))}: ${percentText(points[i].y.mean)}`;
    const custom = points.map((p) => [
      Number.isFinite(p.y.sd) ? ` ± ${(100 * p.y.sd).toFixed(1)}` : "",
      axisOf.text(axisOf.of(p)),
      p.round,
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
  const ends = drawnGroups.map(
    ({ group, points }) =>
      `${group.label} ${percentText(points.at(-1).y.mean)} at ${axisOf.text(axisOf.of(points.at(-1)))}`,
  );
  return {
    traces,
    layout: curveLayout(drawnGroups, axisOf, words),
    label: `Line chart of accuracy (${words}) against ${axisOf.words}. At the end: ${ends.join("; ")}. Arrow keys read the values.`,
    caption: `${words[0].toUpperCase()}${words.slice(1)}, in percent, against ${axisOf.words}. ${state.spread === "band" ? "Lines are means over seeds, bands one standard deviation." : "Thick lines are means over seeds, thin ones single runs."} Drag to zoom, double-click to go back.`,
  };
}

function thinLine(run, group) {
  const points = curveOf(run, state.accuracy);
  const place = { round: 0, bytes: 2, flops: 3 }[state.x];
  return {
    type: "scatter",
    mode: "lines",
    x: points.map((p) => p[place]),
    y: points.map((p) => 100 * p[1]),
    line: { color: faded(group.look.color, 0.45), width: 1 },
    name: plain(nameOf(run)),
    hoverinfo: state.x === "round" ? "skip" : "name",
    meta: {},
  };
}

function curveLayout(drawnGroups, axisOf, words) {
  const values = drawnGroups.flatMap(({ points }) => points.flatMap((p) => [100 * p.y.mean]));
  const span = Math.max(...values) - Math.min(...values) || 1;
  const room = (1.05 * span * 18) / 340;
  const xs = drawnGroups.flatMap(({ points }) => points.map(axisOf.of));
  const labels = isNarrow()
    ? []
    : endLabels(
        drawnGroups.map(({ group, points }) => ({
          y: 100 * points.at(-1).y.mean,
          text: group.label,
          color: group.look.color,
        })),
        room,
      );
  const widest = Math.min(36, Math.max(...drawnGroups.map(({ group }) => group.label.length), 4));
  return layoutOf({
    xaxis: axis(axisOf.words, {
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
  return {
    traces: points.length > 0 ? traces : [],
    layout: layoutOf({
      xaxis: axis("bytes sent, both directions", { ...logAxis(xs, bytesText), range: paddedLog(xs) }),
      yaxis: axis("accuracy, %"),
      annotations: isNarrow() ? [] : pointLabels(points),
      uirevision: state.accuracy,
    }),
    label: `Accuracy against bytes sent. ${points.map((each) => `${each.group.label}: ${percentText(each.accuracy.mean)} for ${bytesText(each.bytes.mean)}`).join("; ")}.`,
    caption: `On the front, no other method is more accurate for fewer bytes: ${front.map((p) => p.group.label).join(", ")}.`,
  };
}

function paddedLog(values) {
  const logs = values.filter((value) => value > 0).map(Math.log10);
  const [low, high] = [Math.min(...logs), Math.max(...logs)];
  const room = Math.max(0.12 * (high - low), 0.12);
  return [low - room, high + room];
}

// Beside its point, towards the middle of the picture; one that would cover another is left to the legend above.
function pointLabels(points) {
  const logs = points.map((each) => Math.log10(each.bytes.mean));
  const ys = points.map((each) => 100 * each.accuracy.mean);
  const [low, width] = [Math.min(...logs), Math.max(...logs) - Math.min(...logs) || 1];
  const [bottom, height] = [Math.min(...ys), Math.max(...ys) - Math.min(...ys) || 1];
  const taken = [];
  return points
    .map(({ group }, i) => {
      const left = logs[i] > low + width / 2 + 1e-9;
      const text = brief(group.label, 30);
      // roughly the pixels of the plot
      const [x, y, length] = [(480 * (logs[i] - low)) / width, (300 * (ys[i] - bottom)) / height, 7 * text.length + 14];
      const box = [left ? x - length : x, left ? x : x + length, y - 9, y + 9];
      if (taken.some((other) => box[0] < other[1] && other[0] < box[1] && box[2] < other[3] && other[2] < box[3]))
        return null;
      taken.push(box);
      return {
        x: logs[i],
        y: ys[i],
        xanchor: left ? "right" : "left",
        xshift: left ? -7 : 7,
        yanchor: "bottom",
        yshift: 4,
        text,
        showarrow: false,
        font: { size: 12.5, color: group.look.color },
      };
    })
    .filter(Boolean);
}
