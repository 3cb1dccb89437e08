// What is drawn on an image besides lines: body directions, a scale bar, a ruler, and what the image is.

import { LINES } from "./colors.js";
import { distance } from "./words.js";

const NICE = [1, 2, 5];
const LONGEST = 0.3;
const JOINT = " · ";

/** The longest of 1, 2, 5, 10, ... that is at most `limit`. */
export function niceLength(limit) {
  const power = 10 ** Math.floor(Math.log10(limit));
  return power * Math.max(...NICE.filter((step) => step * power <= limit * (1 + 1e-9)));
}

function write(context, text, x, y, align = "left", size = 12, weight = 600) {
  context.font = `${weight} ${size}px system-ui, sans-serif`;
  context.textAlign = align;
  context.textBaseline = "middle";
  context.lineJoin = "round";
  context.lineWidth = 3;
  context.strokeStyle = "rgba(0,0,0,0.85)";
  context.fillStyle = "white";
  context.strokeText(text, x, y);
  context.fillText(text, x, y);
}

/** Body directions at all four sides; a photograph has none. */
export function drawLetters(pane, photograph) {
  if (photograph) return;
  const [width, height] = pane.size;
  const [left, right, top, bottom] = pane.plane.letters;
  const places = [[left, 10, height / 2], [right, width - 10, height / 2], [top, width / 2, 10], [bottom, width / 2, height - 10]];
  for (const [text, x, y] of places) write(pane.context, text, x, y, "center");
}

/** A bar of a round length, in mm or in a photograph's pixels. */
export function drawScale(pane, photograph) {
  const { context, plane } = pane;
  const [width, height] = pane.size;
  const perUnit = pane.step[0] / plane.pixelWidth;
  const size = niceLength((LONGEST * width) / perUnit);
  const right = width - 12, left = right - size * perUnit, y = height - 12;
  for (const [style, thick] of [["rgba(0,0,0,0.85)", 5], ["white", 2]]) {
    context.strokeStyle = style;
    context.lineWidth = thick;
    context.lineCap = "butt";
    context.beginPath();
    context.moveTo(left, y - 4);
    context.lineTo(left, y);
    context.lineTo(right, y);
    context.lineTo(right, y - 4);
    context.stroke();
  }
  const unit = photograph ? "px" : size >= 10 ? "cm" : "mm";
  write(context, `${unit === "cm" ? size / 10 : size} ${unit}`, (left + right) / 2, y - 11, "center", 11);
}

/** The parts of a line, joined as long as they fit into a width. */
function wrapped(context, line, width) {
  const rows = [];
  for (const part of line.split(JOINT)) {
    const joined = rows.length ? rows.at(-1) + JOINT + part : part;
    if (rows.length && context.measureText(joined).width <= width) rows[rows.length - 1] = joined;
    else rows.push(part);
  }
  return rows;
}

/** The notice that an image is computed, by what, in which unit: above the letter, left of the scale bar. */
export function drawNotice(pane, lines) {
  const { context, size: [width, height] } = pane;
  const size = width < 320 ? 10 : 12;
  context.font = `600 ${size}px system-ui, sans-serif`;
  const rows = lines.flatMap((line) => wrapped(context, line, (0.94 - LONGEST) * width));
  rows.forEach((row, k) => write(context, row, 8, height - 26 - (size + 3) * (rows.length - 1 - k), "left", size));
}

/** A measured distance, on the panes of its side and slice. */
export function drawRuler(pane, model, ruler) {
  const [from, to] = ruler.ends.map((voxel) => pane.voxelToScreen(voxel));
  const { context } = pane;
  for (const [style, thick] of [["rgba(0,0,0,0.7)", 4], [LINES.ruler, 2]]) {
    context.strokeStyle = style;
    context.lineWidth = thick;
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
  }
  write(context, distance(model, ruler.side, ruler.ends), (from[0] + to[0]) / 2, (from[1] + to[1]) / 2 - 12, "center", 13);
}
