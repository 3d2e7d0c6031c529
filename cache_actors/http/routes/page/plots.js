"use strict";

// Small plots of recent figures, oldest on the left, newest on the right.

const WIDTH = 240;
const HEIGHT = 56;
const STEPS = 60;

/**
 * A figure: what it is, how much that is now, and how it has been.
 *
 * `lines` are the series, each with a `name` and its `values`, which may hold null where there is
 * nothing to say. All are drawn to one scale, from 0 to `most`, or else to the largest of them.
 */
function plotted({ title, lines, most, words, stepSeconds }) {
  const known = lines.flatMap(({ values }) => values.filter(Number.isFinite));
  const largest = Math.max(0, ...known);
  const scale = most ?? (largest || 1);
  const span = inTime(STEPS * stepSeconds);
  const now = lines.map(({ name, values }) => `${name ? `${name} ` : ""}${words(values.at(-1))}`);
  return html("figure", { class: "tile" },
    html("figcaption", {},
      html("p", { class: "what" }, title),
      html("p", { class: "now" }, ...lines.map(lineNow(words)))),
    svg("svg", {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": `${title}, the last ${span}: now ${now.join(", ")}; most ${words(largest)}`,
    }, ...lines.flatMap(({ values }, index) => drawn(values, scale, index))),
    html("p", { class: "axis", "aria-hidden": "true" },
      html("span", {}, `last ${span}`),
      html("span", {}, known.length ? `most ${words(largest)}` : "nothing yet")));
}

function lineNow(words) {
  return ({ name, values }, index) => html("span", { class: `line-${index}` },
    name ? html("small", {}, `${name} `) : null,
    words(values.at(-1)));
}

/** The shapes of one line: the area below it, for the first one, and the line itself. */
function drawn(values, scale, index) {
  const paths = runs(values).map((points) => {
    const [line, from, to] = [points.map((point) => place(point, scale)), points[0], points.at(-1)];
    const area = `M${across(from.step)} ${HEIGHT}L${line.join("L")}L${across(to.step)} ${HEIGHT}Z`;
    return [
      index === 0 ? svg("path", { class: "area", d: area }) : null,
      svg("path", { class: `stroke line-${index}`, d: `M${line[0]}h0L${line.join("L")}` }),
    ];
  });
  return paths.flat().filter(Boolean);
}

/** The stretches without a gap, of points that know which step they are. */
function runs(values) {
  const found = [];
  let gap = true;
  values.forEach((value, index) => {
    const step = STEPS - values.length + index;
    if (Number.isFinite(value)) {
      if (gap) found.push([]);
      found.at(-1).push({ step, value });
    }
    gap = !Number.isFinite(value);
  });
  return found;
}

function place({ step, value }, scale) {
  const up = Math.min(1, value / scale) * (HEIGHT - 6);
  return `${across(step)} ${(HEIGHT - 3 - up).toFixed(1)}`;
}

function across(step) {
  return (2 + (step * (WIDTH - 4)) / (STEPS - 1)).toFixed(1);
}
