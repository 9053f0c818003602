// Confusion of classes, and training by epoch.

// Bokeh would take these signs for a formula and look for MathJax.
const unformulated = (text) => text.replace(/\$\$|\\[[(]/g, ([first, second]) => `${first}\u200b${second}`);

async function confusion() {
  const choice = offer(byId("confusion-choice"), DATA.confusion.map(({ label }, i) => [i, label]));
  choice.value = Math.max(0, DATA.confusion.findIndex(({ winner }) => winner));
  const matrix = DATA.figures.confusion && (await embed("confusion"));
  const bars = DATA.figures.recall && (await embed("recall"));
  function draw() {
    const part = DATA.confusion[choice.value];
    if (matrix) drawMatrix(matrix, part);
    if (bars) drawRecall(bars, part);
  }
  choice.addEventListener("change", draw);
  drawing(draw);
}

function name(axis, classes) {
  axis.ticker.ticks = classes.map((_, i) => i);
  axis.major_label_overrides = new Map(classes.map((text, i) => [i, unformulated(text)]));
}

const longest = (classes) => 7 * Math.min(30, Math.max(...classes.map((text) => text.length)));

function drawMatrix(figure, { classes, matrix }) {
  const n = classes.length;
  const cell = Math.max(10, Math.min(40, 420 / n));
  figure.setv({ width: n * cell + longest(classes) + 60, height: n * cell + longest(classes) + 60 });
  for (const axis of [figure.above[0], figure.left[0]]) {
    name(axis, classes);
    axis.major_label_text_font_size = cell < 14 ? "8px" : "12px";
  }
  figure.x_range.setv({ start: -0.5, end: n - 0.5 });
  figure.y_range.setv({ start: n - 0.5, end: -0.5 });
  const records = (matrix ?? []).flatMap((line, y) => {
    const all = line.reduce((sum, count) => sum + count, 0);
    return line.map((count, x) => {
      const share = all ? count / all : 0;
      const look = { shown: cell < 24 || !count ? "" : String(count), ink: share > 0.5 ? "white" : "#333" };
      return { x, y, share, count, true: classes[y], predicted: classes[x], ...look };
    });
  });
  put(sourceOf(figure, "cells"), records);
}

function drawRecall(figure, { classes, recall, shown }) {
  const n = classes.length;
  figure.height = n * Math.max(12, Math.min(40, 420 / n)) + 60;
  name(figure.left[0], classes);
  figure.left[0].major_label_text_font_size = n > 30 ? "8px" : "12px";
  figure.y_range.setv({ start: n - 0.5, end: -0.5 });
  const records = recall.map((share, y) => ({ y, recall: 100 * share, name: classes[y], text: shown[y] }));
  put(sourceOf(figure, "bars"), records.filter(({ y }) => recall[y] !== null));
}

function around(range, values) {
  const known = values.filter((value) => value !== null);
  if (!known.length) return;
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const margin = 0.05 * (high - low) || 0.5;
  range.setv({ start: low - margin, end: high + margin });
}

async function training() {
  const curves = [
    { place: "loss", of: [["loss", "loss", []]] },
    { place: "train_top1", of: [["train_top1", "training", []], ["validation_top1", "validation", [4, 3]]] },
  ].filter(({ place }) => DATA.figures[place]);
  for (const plot of curves) plot.figure = await embed(plot.place);
  function draw() {
    const shown = DATA.training.filter(({ label }) => !hidden.has(label));
    for (const { figure, of } of curves) {
      const lines = shown.flatMap((record) =>
        of.filter(([column]) => record[column].some((value) => value !== null)).map(([column, what, dash]) => {
          const common = { variant: record.label, color: ink(DATA.looks[record.variant].color), what, dash };
          return { xs: record.epoch, ys: record[column], ...common };
        }),
      );
      put(sourceOf(figure, "lines"), lines);
      const points = lines.flatMap((line) => line.xs.map((x, i) => ({ ...line, x, y: line.ys[i] })));
      put(sourceOf(figure, "points"), points.filter(({ y }) => y !== null));
      around(figure.x_range, points.map(({ x }) => x));
      around(figure.y_range, points.map(({ y }) => y));
    }
  }
  const entries = DATA.training.map(({ label, variant }) => ({ name: label, ...DATA.looks[variant] }));
  const hidden = key(byId("training-key"), "Variants", entries, draw);
  drawing(draw);
}

if (DATA.confusion) confusion();
if (DATA.training) training();
