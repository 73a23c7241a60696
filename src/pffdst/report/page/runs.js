// The runs, what differs between those chosen, and what was left out.

// ---- runs

function runColumns(seen) {
  const finals = (key) => (run) => run.final[key] ?? null;
  const scales = Object.fromEntries(
    [
      ["bytes", totalBytes, BYTES],
      ["up", finals("bytes_up"), BYTES],
      ["down", finals("bytes_down"), BYTES],
      ["flops", finals("flops"), FLOPS],
    ].map(([key, figure, units]) => [key, { figure, ...columnScale(seen.matching.map(figure), units) }]),
  );
  const cost = (key, name) => ({
    key,
    name,
    unit: scales[key].unit,
    of: scales[key].figure,
    text: (run) => scales[key].text(scales[key].figure(run) ?? NaN),
  });
  const share = (key, name) => ({
    key,
    name,
    unit: "%",
    of: finals(key),
    text: (run) => fixed(100 * (finals(key)(run) ?? NaN), 1),
  });
  const rest = Object.keys(data.accuracies).filter((key) => key !== state.accuracy && key !== "last5_acc_client_mean");
  const names = {
    ema_acc_global: "Server average",
    ema_acc_client_mean: "Average, clients",
    last5_acc_global: "Last 5",
    last5_acc_client_mean: "Last 5, clients",
    acc_global: "Last round",
    acc_client_mean: "Last, clients",
  };
  return [
    { key: "id", name: "Run", left: true, of: (run) => run.id, text: nameOf },
    {
      key: "status",
      name: "Status",
      left: true,
      of: (run) => run.status,
      text: (run) => el("span", { class: `status ${run.status}` }, run.twin ? "duplicate" : run.status),
    },
    ...seen.keys.map((key) => ({
      key,
      name: keyName(key),
      left: !seen.matching.every((run) => isNumber(run.config[key])),
      of: (run) => run.config[key] ?? null,
      text: (run) =>
        "rounds" in run.config || key in run.config ? wordOf(key, run.config[key], data.keys.words) : ABSENT,
    })),
    {
      key: "seed",
      name: "Seed",
      of: (run) => run.config.seed ?? null,
      text: (run) => String(run.config.seed ?? ABSENT),
    },
    share(state.accuracy, names[state.accuracy]),
    ...rest.slice(0, 3).map((key) => share(key, names[key])),
    cost("bytes", "Bytes"),
    cost("up", "Up"),
    cost("down", "Down"),
    cost("flops", "Training"),
    share("sparsity", "Sparsity"),
    share("sparsity_overall", "Of all weights"),
    {
      key: "rounds",
      name: "Rounds",
      of: (run) => run.rounds,
      text: (run) => (run.config.rounds > run.rounds ? `${run.rounds} of ${run.config.rounds}` : String(run.rounds)),
    },
    {
      key: "wall_s",
      name: "Time",
      unit: "m:s",
      of: finals("wall_s"),
      text: (run) => durationText(run.final.wall_s ?? NaN),
    },
    {
      key: "peak_rss_mb",
      name: "Memory",
      unit: "MB",
      of: finals("peak_rss_mb"),
      text: (run) => fixed(run.final.peak_rss_mb ?? NaN, 0),
    },
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
  return table({
    caption: "Runs",
    columns: [{ name: el("span", { class: "unseen" }, "Chosen"), left: true }, ...columns],
    rows,
    sort: sorting("sort"),
    rowHead: 1,
  });
}

function chooser(run) {
  const toggle = (event) => {
    state.chosen = event.target.checked ? [...state.chosen, run.id] : state.chosen.filter((id) => id !== run.id);
    render();
  };
  return el("input", {
    type: "checkbox",
    id: `choose-${run.id}`,
    "aria-label": `Choose ${nameOf(run)}`,
    checked: state.chosen.includes(run.id),
    onchange: toggle,
  });
}

// ---- configurations, and what was left out

function differenceTable(seen) {
  const runs = state.chosen.map((id) => data.runs.find((run) => run.id === id)).filter(Boolean);
  const keys = [...new Set(runs.flatMap((run) => Object.keys(run.config)))].filter(
    (key) => new Set(runs.map((run) => JSON.stringify(run.config[key] ?? null))).size > 1,
  );
  const note =
    runs.length < 2
      ? "Choose two or more runs in the table above."
      : keys.length === 0
        ? "Their configurations are the same."
        : `${keys.length} keys differ.`;
  if (runs.length < 2 || keys.length === 0) return [null, note];
  const columns = [
    { name: "Key", left: true },
    ...runs.map((run) => ({ name: `${nameOf(run)}: ${withSeed(run, seen.keys)}`, left: true })),
  ];
  const rows = keys.map((key) => ({
    cells: [
      el("code", {}, key),
      ...runs.map((run) =>
        key in run.config ? wordOf(key, run.config[key], data.keys.words) : el("span", { class: "none" }, "absent"),
      ),
    ],
  }));
  return [table({ caption: "Configuration keys in which the chosen runs differ", columns, rows }), note];
}

function leftTable() {
  const left = data.runs.filter((run) => !run.counted || run.remarks.length > 0);
  const why = (run) =>
    [
      ...(run.twin ? [`same configuration as ${run.twin}, which is counted instead`] : []),
      ...run.remarks,
      ...(run.counted ? ["its figures are counted"] : []),
    ].join("; ");
  const columns = [
    { name: "Run", left: true },
    { name: "Status", left: true },
    { name: "Why", left: true },
  ];
  const rows = left.map((run) => ({
    cells: [nameOf(run), el("span", { class: `status ${run.status}` }, run.twin ? "duplicate" : run.status), why(run)],
  }));
  return left.length === 0 ? null : table({ caption: "Runs left out of the means, or with remarks", columns, rows });
}
