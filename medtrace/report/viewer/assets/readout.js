// What is under the crosshair, in words and numbers.

import { difference, length } from "./affine.js";
import { accountAt } from "./slices.js";

const text = (value, digits = 2) => {
  if (value === null || Number.isNaN(value)) return "–";
  return (Math.abs(value) < 0.5 * 10 ** -digits ? 0 : value).toFixed(digits); // no "-0.0"
};
const unit = (name) => (name ? `, ${name}` : "");
const point = (values, digits) => values.map((value) => text(value, digits)).join(", ");

/** Rows of the table: [key, heading, value]. */
export function readings(viewer) {
  const { model, state } = viewer;
  const { names } = model;
  const { photograph } = model.description;
  const { units, sameUnit } = model.description;
  const { source, target, side } = state.point;
  const c = model.correspondence;
  const sourceMm = c.sourceMm(source), targetMm = c.targetMm(target);
  const back = side === "source" ? difference(c.sourceMm(c.origin(target)), sourceMm)
    : difference(c.targetMm(c.locate(source)), targetMm);
  const channel = viewer.mapChannel;
  const account = accountAt(model, target, channel);
  const dims = model.is3d ? 3 : 2;
  const rows = [
    ...(photograph ? [] : [["source-mm", `${names.source} (RAS mm)`, point(sourceMm, 2)]]),
    ["source-voxel", `${names.source} ${photograph ? "pixel" : "voxel"}`, point(source.slice(0, dims), 1)],
    ...(photograph ? [] : [["target-mm", `${names.target} (RAS mm)`, point(targetMm, 2)]]),
    ["target-voxel", `${names.target} ${photograph ? "pixel" : "voxel"}`, point(target.slice(0, dims), 1)],
    ["moved-mm", photograph ? "moved by (px)" : "moved by (mm)", `${text(length(difference(targetMm, sourceMm)))} (${point(difference(targetMm, sourceMm), 1)})`],
    ["path", "path", model.pathKind()],
    ["before", `intensity before${unit(units.source)}`, intensities(model.source, source)],
    ["after", `intensity after${unit(units.image)}`, intensities(model.image, target)],
  ];
  if (sameUnit && model.source.channels === model.image.channels) {
    const of = model.channels > 1 ? ` (channel ${channel + 1})` : "";
    rows.push(["change", `change${of}`, amount(account.after - account.before, model.image)]);
  }
  if (account.appearance !== null) {
    rows.push(["appearance", sameUnit ? "explained by appearance" : `expected from the source${unit(units.image)}`, amount(account.appearance, model.image)]);
    rows.push(["residual", "unexplained", amount(account.residual, model.image)]);
  }
  if (model.truth) rows.push(["error", "error (target − image)", amount(model.truth.linear(...target, channel) - account.after, model.image)]);
  rows.push(["jacobian", `local ${model.is3d ? "volume" : "area"} ${names.source} / ${names.target}`, text(c.ddf.jacobian(...target.map(Math.round)), 3)]);
  rows.push(["round-trip", `inverse-consistency error (${photograph ? "px" : "mm"})`, text(length(back))]);
  return rows;
}

function amount(value, volume) {
  return Number(value.toPrecision(volume.scale === 1 && Number.isInteger(volume.offset) ? 5 : 4)).toString();
}

function intensities(volume, place) {
  const values = Array.from({ length: volume.channels }, (_, channel) => volume.linear(...place, channel));
  return values.map((value) => amount(value, volume)).join(", ");
}

/** How exactly the page stores the trace. */
export function exactness(model) {
  const { arrays } = model.description;
  const lines = [];
  for (const [name, heading] of [["source", model.names.source], ["image", model.names.target]]) {
    const { error } = arrays[name];
    lines.push(`Intensities of the ${heading}: ${error === 0 ? "exact" : `within ${error.toPrecision(2)}`}.`);
  }
  for (const [name, heading] of [["ddf", "field"], ["inverse", "inverse field"], ["velocity", "velocity"]]) {
    if (!(name in arrays)) continue;
    const grid = name === "inverse" ? model.grids.source : model.grids.target;
    const stored = arrays[name].shape.slice(1);
    const half = stored.some((size, axis) => size !== grid.shape[axis]);
    lines.push(`The ${heading}: within ${arrays[name].error.toPrecision(2)} voxel${half ? ", stored at half resolution" : ""}.`);
  }
  return lines;
}

