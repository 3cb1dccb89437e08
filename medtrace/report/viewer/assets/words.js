// The point under the crosshair in words.

import { difference, length } from "./affine.js";
import { accountAt } from "./slices.js";

const BODY = [["left", "right"], ["back", "forward"], ["down", "up"]];
const SCREEN = [["right", "left"], ["down", "up"]];
const LEAST = 0.05;
const SMALL = 0.01;

/** A displacement in RAS mm in words, largest part first: "4.9 mm left, 2.1 mm up". Photographs are in pixels. */
export function directions(moved, photograph = false) {
  const words = photograph ? SCREEN : BODY;
  const unit = photograph ? "px" : "mm";
  const parts = words.map(([negative, positive], axis) => [moved[axis], moved[axis] < 0 ? negative : positive])
    .filter(([value]) => Math.abs(value) >= LEAST)
    .sort(([a], [b]) => Math.abs(b) - Math.abs(a));
  return parts.map(([value, word]) => `${Math.abs(value).toFixed(1)} ${unit} ${word}`).join(", ");
}

/** Sentences about what happened at the crosshair: motion, size, intensity. */
export function sentence(viewer) {
  const { model, state } = viewer;
  const { description } = model;
  const { source, target } = state.point;
  const c = model.correspondence;
  const moved = directions(difference(c.targetMm(target), c.sourceMm(source)), description.photograph);
  const parts = [moved ? `Moved ${moved}.` : "Did not move."];
  const size = c.ddf.jacobian(...target.map(Math.round));
  if (size <= 0) parts.push("The field folds here: there is no valid correspondence.");
  else if (Math.abs(1 / size - 1) >= LEAST) parts.push(growth(1 / size, model.is3d));
  parts.push(intensity(viewer, accountAt(model, target, viewer.mapChannel)));
  return parts.join(" ");
}

function growth(factor, is3d) {
  const percent = Math.round(100 * Math.abs(factor - 1));
  return `Tissue here ${factor > 1 ? "grew" : "shrank"} by ${percent} % in ${is3d ? "volume" : "area"}.`;
}

/** " HU" of "CT (HU)"; several units are given with their contrasts. */
function shortUnit(label) {
  if (!label) return "";
  const units = new Set(label.split(", ").map((one) => /\(([^()]+)\)$/.exec(one)?.[1] ?? one));
  return units.size > 1 ? ` (${label})` : ` ${[...units][0]}`;
}

/** How much of the change in intensity the trace attributes to contrast. */
function intensity(viewer, account) {
  const { description } = viewer.model;
  const [low, high] = description.windows.image;
  const { appearance, residual } = account;
  const unit = shortUnit(description.units.image);
  if (!description.sameUnit) {
    if (residual === null) return "The source says nothing about its intensity.";
    const amount = Number(Math.abs(residual).toPrecision(2));
    return `Its intensity is ${amount}${unit} ${residual < 0 ? "below" : "above"} what such tissue usually has.`;
  }
  const change = account.after - account.before;
  if (Math.abs(change) < SMALL * (high - low)) return "Its intensity is the same.";
  const told = `Its intensity ${change < 0 ? "fell" : "rose"} by ${Number(Math.abs(change).toPrecision(2))}${unit}`;
  if (appearance === null) return `${told}, which motion does not explain.`;
  const total = Math.abs(appearance) + Math.abs(residual);
  const share = Math.round((100 * Math.abs(appearance)) / total);
  if (share >= 100) return `${told}: all of it is a change of contrast.`;
  if (share <= 0) return `${told}, which nothing explains.`;
  return `${told}: ${share} % of the change is contrast; the rest is unexplained.`;
}

/** The distance between two points of one side in words. */
export function distance(model, side, [from, to]) {
  const c = model.correspondence;
  const mm = (voxel) => (side === "source" ? c.sourceMm(voxel) : c.targetMm(voxel));
  return `${length(difference(mm(from), mm(to))).toFixed(1)} ${model.description.photograph ? "px" : "mm"}`;
}
