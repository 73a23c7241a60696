// How groups compare, seed by seed, in words; the tables of equal accuracy and equal bytes.

// "2.52 (1.00 to 4.00)": the geometric mean, the lowest and the highest. Lines break before the range, not in it.
function ratioText({ mean: middle, low, high }, unit = "") {
  const [least, most] = [fixed(low, 2), fixed(high, 2)];
  return `${fixed(middle, 2)}${unit}${least === most ? "" : ` (${least}\u00a0to\u00a0${most})`}`;
}

// "+1.2 ± 3.4": points, ± half of the 95 % interval.
const pointsText = ({ mean: middle, half }) =>
  `${middle > 0 ? "+" : ""}${plusMinusText(100 * middle, 100 * half, 1).replaceAll(" ", "\u00a0")} points`;

const BY_CHANCE = "within chance (95\u00a0%)";

// What a reader of a comparison has to know: of how many seeds it is, and whether chance explains it.
function doubts({ n, seeds, byChance, single }) {
  const some = n < seeds ? `${n} of ${seeds} seeds` : "";
  if (single) return "one run each: no interval";
  if (n === 1) return `${some || "one seed"}: no interval`;
  return [byChance && BY_CHANCE, some].filter(Boolean).join(", ");
}

const doubtLine = (against) => doubts(against) !== "" && el("span", { class: "sub" }, doubts(against));

// The reference of a column: the chosen group, else the best of those whose runs all have the figure.
function referenceOf(seen, figure, isBetter) {
  const asked = seen.groups.find((group) => group.label === state.reference);
  if (asked !== undefined) return asked;
  const whole = seen.groups
    .map((group) => ({ group, spread: overDrawn(group, figure) }))
    .filter(({ spread }) => spread.n > 0 && spread.n === spread.of);
  return whole.sort((a, b) => (isBetter(a.spread.mean, b.spread.mean) ? -1 : 1))[0]?.group;
}

function equalTable(seen, { caption, name, given, figure, isBetter, compare, cell, relative, unit }) {
  const references = given.map((value) => referenceOf(seen, figure(value), isBetter));
  const spreads = seen.groups.map((group) => given.map((value) => overDrawn(group, figure(value))));
  const units = given.map((_, i) => unit(spreads.map((row) => row[i].mean)));
  const columns = [
    { name: "Method", left: true },
    ...given.map((value, i) => ({ name: name(value), unit: units[i].unit })),
  ];
  const rows = byLastColumn(spreads, isBetter).map((g) => {
    const group = seen.groups[g];
    const cells = given.map((value, i) => {
      const against = references[i] === undefined ? null : paired(group, references[i], figure(value), compare);
      return [
        cell(spreads[g][i], units[i], group, value),
        ...comparedLines(against, references[i] === group, relative),
      ];
    });
    return { cells: [el("span", { class: "named" }, swatch(group.look), el("span", {}, group.label)), ...cells] };
  });
  return table({ caption, columns, rows });
}

const comparedLines = (against, isReference, relative) =>
  against === null || against.n === 0
    ? []
    : isReference
      ? [el("span", { class: "sub" }, relative.own)]
      : [el("span", { class: "sub" }, relative.text(against)), doubtLine(against)];

// The places of the rows, the best of the last column first; rows without a figure there follow, by the column before.
function byLastColumn(spreads, isBetter) {
  const better = (a, b) => {
    for (let i = spreads[a].length - 1; i >= 0; i--) {
      const [one, other] = [spreads[a][i], spreads[b][i]];
      if (one.n > 0 !== other.n > 0) return one.n > 0 ? -1 : 1;
      if (one.n > 0 && one.mean !== other.mean) return isBetter(one.mean, other.mean) ? -1 : 1;
    }
    return a - b;
  };
  return spreads.map((_, g) => g).sort(better);
}

function reachTable(seen) {
  return equalTable(seen, {
    caption:
      "Bytes to reach an accuracy, mean ± standard deviation over runs, " +
      "and as a multiple of the reference: geometric mean (lowest to highest)",
    given: levelsNow(seen),
    figure: reach,
    name: (level) => `${Number((100 * level).toFixed(1))} %`,
    isBetter: (a, b) => a < b,
    compare: ratioOf,
    cell: (spread, scale) => reachCell(spread, scale),
    unit: (values) => columnScale(values, BYTES),
    relative: { own: "1 ×", text: (times) => ratioText(times, " ×") },
  });
}

function atTable(seen) {
  return equalTable(seen, {
    caption:
      "Accuracy within a byte budget, mean ± standard deviation over runs, " +
      "and points from the reference ± half of a 95 % interval",
    given: budgetsNow(seen),
    figure: at,
    name: (budget) => bytesText(budget),
    isBetter: (a, b) => a > b,
    compare: differenceOf,
    unit: () => ({ unit: "%" }),
    cell: (spread, _, group, budget) => {
      if (spread.n === 0) return el("span", { class: "none" }, "none yet");
      const spent = spreadOf(group.runs.map(totalBytes)).mean;
      const note = spent < 0.98 * budget && el("span", { class: "sub" }, `all of its ${bytesText(spent)}`);
      return [plusMinus(100 * spread.mean, 100 * spread.sd, 1), someRuns(spread), note];
    },
    relative: { own: "reference", text: pointsText },
  });
}
