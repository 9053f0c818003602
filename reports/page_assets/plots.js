// Accuracy against cost: the rows of one group, on the axes that were chosen.

const BARS = {
  latency_s: "p10 to p90 of the latency",
  top1: "the 95 % interval of top-1",
  speedup: "the 95 % interval of the speed-up",
  overall: "the 95 % interval of the speed-up",
};

async function pareto() {
  const { groups, axes, markers, y } = DATA.pareto;
  const figure = await embed("pareto");
  const named = (keys) => keys.map((name) => [name, axes[name].label]);
  const group = offer(byId("pareto-group"), groups.map(({ label }, i) => [i, label]));
  const across = offer(byId("pareto-x"), named(Object.keys(axes).filter((name) => !y.includes(name))));
  const up = offer(byId("pareto-y"), named(y));
  const ticker = figure.below[0].ticker;
  figure.x_range.change.connect(() => (ticker.ticks = ticks(figure.x_range.start, figure.x_range.end)));

  function draw() {
    const [x, y] = [across.value, up.value];
    const points = groups[group.value].points
      .filter((p) => p.values[x] && p.values[y] && !hidden.has(p.variant) && !idle.has(p.runtime))
      .map((p) => placed(p, x, y));
    figure.below[0].axis_label = axes[x].label;
    figure.left[0].axis_label = axes[y].label;
    if (points.length) frame(figure, points);
    enlargeHidden(figure, points);
    put(sourceOf(figure, "points"), points);
    const best = front(points, axes[x].better);
    put(sourceOf(figure, "front"), steps(best, axes[x].better > 0 ? 1e-9 : 1e9));
    byId("pareto-caption").textContent = points.length ? caption(x, y) : "No row of this group has both figures.";
  }

  function caption(x, y) {
    const bars = [...new Set([BARS[x], BARS[y]].filter(Boolean))].join(", ");
    const corner = `the upper ${axes[x].better > 0 ? "right" : "left"} is better`;
    const front = `Dashed: the Pareto front, which no other row beats on both axes; ${corner}.`;
    return `Measured at ${groups[group.value].label}. ${bars ? `Bars: ${bars}. ` : ""}${front}`;
  }

  function placed({ variant, runtime, text, values }, x, y) {
    const { color, alpha } = DATA.looks[variant];
    const look = { color: ink(color), alpha, marker: markers[runtime][0] };
    const [[across, left, right], [up, low, high]] = [values[x], values[y]];
    return { x: across, left, right, y: up, low, high, variant, runtime, text, ...look };
  }

  const drawn = (name) => groups.some((g) => g.points.some((p) => p.variant === name));
  const variants = Object.entries(DATA.looks).filter(([name]) => drawn(name));
  const runtimes = Object.entries(markers).map(([name, [, sign]]) => ({ name, sign }));
  const hidden = key(byId("pareto-key"), "Variants", variants.map(([name, look]) => ({ name, ...look })), draw);
  const idle = key(byId("pareto-key"), "Runtimes", runtimes, draw);
  for (const select of [group, across, up]) select.addEventListener("change", draw);
  drawing(draw);
}

// The points that no other beats on both axes, from the best x on.
function front(points, better) {
  const best = [];
  for (const p of [...points].sort((a, b) => better * (b.x - a.x) || b.y - a.y)) {
    if (!best.length || p.y > best.at(-1).y) best.push(p);
  }
  return best;
}

// The corners of the stairs over these points, which go on for ever.
function steps(best, far) {
  return best.flatMap(({ x, y }, i) => [{ x, y }, { x: best[i + 1]?.x ?? x * far, y }]);
}

function frame(figure, points) {
  const [left, right] = [Math.min(...points.map((p) => p.left)), Math.max(...points.map((p) => p.right))];
  const [low, high] = [Math.min(...points.map((p) => p.low)), Math.max(...points.map((p) => p.high))];
  const beside = Math.max((right / left) ** 0.08, 1.05);
  const above = 0.08 * (high - low) || 0.02 * Math.abs(high) || 1;
  for (const [range, start, end] of [
    [figure.x_range, left / beside, right * beside],
    [figure.y_range, low - above, high + above],
  ]) {
    range.setv({ start, end, reset_start: start, reset_end: end });
  }
}

// Gives each point a size: larger than a later one that lies on its centre, so that a rim of it shows around that.
function enlargeHidden(figure, points) {
  const { x_range: across, y_range: up, inner_width: width, inner_height: height } = figure;
  const place = (p) => [
    ((width || 600) * Math.log(p.x / across.start)) / Math.log(across.end / across.start),
    ((height || 360) * (p.y - up.start)) / (up.end - up.start),
  ];
  const places = points.map(place);
  for (let i = points.length - 1; i >= 0; i -= 1) {
    const over = (j) => Math.hypot(places[i][0] - places[j][0], places[i][1] - places[j][1]) < points[j].size / 2;
    const sizes = points.flatMap(({ size }, j) => (j > i && over(j) ? [size + 8] : []));
    points[i].size = Math.max(12, ...sizes);
  }
}

// Round numbers for a logarithmic axis: the same digits of every power of ten, or even steps where it is short.
function ticks(start, end) {
  const times = end / start;
  if (times > 6) {
    const digits = times > 2000 ? [1] : times > 60 ? [1, 2, 5] : [1, 2, 3, 4, 5, 7];
    const powers = [];
    for (let p = Math.floor(Math.log10(start)); p <= Math.log10(end); p += 1) powers.push(p);
    return powers.flatMap((p) => digits.map((d) => Number(`${d}e${p}`))).filter((t) => start <= t && t <= end);
  }
  const rough = (end - start) / 7;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((digit) => digit * power >= rough);
  const count = Math.floor(end / step) - Math.ceil(start / step) + 1;
  return Array.from({ length: count }, (_, i) => Number(((Math.ceil(start / step) + i) * step).toPrecision(6)));
}

if (DATA.pareto) pareto();
