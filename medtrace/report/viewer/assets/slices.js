// What is seen in a slice: images, frames of the flow, and maps of the change.

import { length, turn } from "./affine.js";

/** Maps that the reader may choose: their heading, unit, colours and the value of "nothing". */
export const MAPS = {
  displacement: { title: "displacement", unit: "mm", colours: "amount" },
  jacobian: { title: "Jacobian (local volume ratio)", unit: "", colours: "change" },
  appearance: { title: "appearance change", unit: "", colours: "change" },
  residual: { title: "unexplained residual", unit: "", colours: "change" },
  error: { title: "error (target − image)", unit: "", colours: "change" },
};

/** Intensities of a grid's own slice, channel by channel. */
export function imageSlice(volume, plane, index) {
  const count = plane.width * plane.height;
  const out = new Float32Array(count * volume.channels);
  for (let channel = 0; channel < volume.channels; channel++) {
    plane.each(index, (voxel, pixel) => {
      out[channel * count + pixel] = volume.voxel(voxel[0], voxel[1], voxel[2], channel);
    });
  }
  return out;
}

/** The source as the frame of time t shows it on the target grid. */
export function frameSlice(model, plane, index, t) {
  const { source, correspondence } = model;
  const count = plane.width * plane.height;
  const out = new Float32Array(count * source.channels);
  const place = [0, 0, 0];
  plane.each(index, (voxel, pixel) => {
    readPoint(correspondence, voxel, t, place);
    for (let channel = 0; channel < source.channels; channel++) {
      out[channel * count + pixel] = source.linear(place[0], place[1], place[2], channel);
    }
  });
  return out;
}

/** Source voxel that the frame of time t shows at a target voxel; at time 1 the field itself, not the flow. */
function readPoint(correspondence, voxel, t, out) {
  if (t === 1) return correspondence.origin(voxel, out);
  correspondence.framePoint(voxel, t, out);
  const m = correspondence.toSource;
  const [x, y, z] = out;
  for (let row = 0; row < 3; row++) out[row] = m[4 * row] * x + m[4 * row + 1] * y + m[4 * row + 2] * z + m[4 * row + 3];
  return out;
}

/** Frame of time t that takes on the final intensities as it goes: frame + t·(image − warped). */
export function morphSlice(model, plane, index, t) {
  const frame = frameSlice(model, plane, index, t);
  if (model.source.channels !== model.image.channels) return frame;
  const warped = frameSlice(model, plane, index, 1);
  const image = imageSlice(model.image, plane, index);
  return frame.map((value, k) => value + t * (image[k] - warped[k]));
}

/** Values of a map over a slice of the target grid (first channel). */
export function mapSlice(model, name, plane, index) {
  const out = new Float32Array(plane.width * plane.height);
  const { correspondence, image } = model;
  if (name === "displacement") {
    const moved = [0, 0, 0];
    plane.each(index, (voxel, pixel) => {
      correspondence.ddf.at(voxel[0], voxel[1], voxel[2], moved);
      out[pixel] = length(turn(correspondence.affine, moved));
    });
  } else if (name === "jacobian") {
    plane.each(index, (voxel, pixel) => {
      out[pixel] = correspondence.ddf.jacobian(voxel[0], voxel[1], voxel[2]);
    });
  } else if (name === "error") {
    plane.each(index, (voxel, pixel) => {
      out[pixel] = model.truth.voxel(...voxel) - image.voxel(...voxel);
    });
  } else {
    plane.each(index, (voxel, pixel) => {
      const { appearance, residual } = accountAt(model, voxel);
      out[pixel] = name === "appearance" ? appearance : residual;
    });
  }
  return out;
}

/** The account of a target voxel in the data's units: warped + appearance + residual = image. */
export function accountAt(model, voxel, channel = 0) {
  const { image, source, mask, correspondence } = model;
  const q = correspondence.origin(voxel);
  const warped = source.linear(q[0], q[1], q[2], channel);
  const value = image.linear(voxel[0], voxel[1], voxel[2], channel);
  const change = value - warped;
  const { kind, curves } = model.description.appearance;
  let appearance = null;
  if (kind === "mask" && mask) appearance = mask.linear(voxel[0], voxel[1], voxel[2]) * change;
  if (kind === "curve") appearance = onCurve(curves[channel], warped);
  if (kind === "stored" && model.appearance) appearance = model.appearance.linear(...voxel, channel);
  return { before: warped, after: value, appearance, residual: appearance === null ? null : change - appearance };
}

function onCurve({ low, high, values }, x) {
  const last = values.length - 1;
  if (high <= low) return values[0];
  const place = Math.max(0, Math.min(last, ((x - low) / (high - low)) * last));
  const k = Math.min(last - 1, Math.floor(place));
  return values[k] + (place - k) * (values[k + 1] - values[k]);
}

/** Place of a map's value on its colours, in [0, 1]. */
export function placeOf(name, value, range) {
  if (name === "displacement") return value / range;
  if (name === "jacobian") return 0.5 + 0.5 * (Math.log2(Math.max(value, 1e-3)) / range);
  return 0.5 + 0.5 * (value / range);
}

/** What the ends and the middle of a colour bar say. */
export function ticksOf(name, range) {
  const short = (value) => String(Number(value.toPrecision(3)));
  if (name === "displacement") return ["0", short(range / 2), short(range)];
  if (name === "jacobian") return [short(2 ** -range), "1", short(2 ** range)];
  return [short(-range), "0", short(range)];
}
