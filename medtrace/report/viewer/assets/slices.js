// What is seen in a slice: images, frames of the flow, and maps of the change.

import { apply, turnedLength } from "./affine.js";

const FLOW_STEP = 3;
const LARGE_SLICE = 128 * 128;

/** Maps that the reader may choose: their heading, unit, colours and the value of "nothing". */
export const MAPS = {
  displacement: { title: "displacement", unit: "mm", colours: "amount" },
  jacobian: { title: "Jacobian", unit: "", colours: "change" },
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
  framePoints(correspondence, plane, index, t, (point, pixel) => {
    apply(correspondence.toSource, point, place);
    for (let channel = 0; channel < source.channels; channel++) {
      out[channel * count + pixel] = source.linear(place[0], place[1], place[2], channel);
    }
  });
  return out;
}

/**
 * Call visit(point, pixel) with the target-space point that the frame of time t reads at every pixel. A flow is
 * followed from every third pixel of a large slice and read linearly between: it is as smooth as its velocity.
 */
export function framePoints(correspondence, plane, index, t, visit) {
  const point = [0, 0, 0];
  if (t === 0) {
    plane.each(index, visit);
    return;
  }
  if (t === 1) {
    const points = pulledPoints(correspondence, plane, index);
    for (let pixel = 0; pixel < plane.width * plane.height; pixel++) {
      for (let k = 0; k < 3; k++) point[k] = points[3 * pixel + k];
      visit(point, pixel);
    }
    return;
  }
  if (!correspondence.velocity || plane.width * plane.height < LARGE_SLICE) {
    plane.each(index, (voxel, pixel) => visit(correspondence.framePoint(voxel, t, point), pixel));
    return;
  }
  const lattice = flowLattice(correspondence, plane, index, t);
  plane.each(index, (voxel, pixel) => {
    const u = (pixel % plane.width) / FLOW_STEP, v = Math.floor(pixel / plane.width) / FLOW_STEP;
    lattice.at(u, v, point);
    for (let k = 0; k < 3; k++) point[k] += voxel[k];
    visit(point, pixel);
  });
}

/** p + ddf(p) of every pixel of a slice, three numbers each; the last slice's are kept. */
export function pulledPoints(correspondence, plane, index) {
  const key = `${plane.normal} ${index}`;
  if (correspondence.pulled?.key !== key) {
    const points = new Float32Array(3 * plane.width * plane.height);
    const point = [0, 0, 0];
    plane.each(index, (voxel, pixel) => {
      correspondence.ddf.at(voxel[0], voxel[1], voxel[2], point);
      for (let k = 0; k < 3; k++) points[3 * pixel + k] = voxel[k] + point[k];
    });
    correspondence.pulled = { key, points };
  }
  return correspondence.pulled.points;
}

/** Displacements of the frame at every third pixel across and down. */
function flowLattice(correspondence, plane, index, t) {
  const width = Math.ceil((plane.width - 1) / FLOW_STEP) + 1, height = Math.ceil((plane.height - 1) / FLOW_STEP) + 1;
  const values = new Float32Array(3 * width * height);
  const point = [0, 0, 0];
  for (let v = 0; v < height; v++) {
    for (let u = 0; u < width; u++) {
      const voxel = plane.toVoxel(u * FLOW_STEP, v * FLOW_STEP, index);
      correspondence.framePoint(voxel, t, point);
      for (let k = 0; k < 3; k++) values[3 * (v * width + u) + k] = point[k] - voxel[k];
    }
  }
  const at = (u, v, out) => {
    const i = Math.min(width - 2, Math.floor(u)), j = Math.min(height - 2, Math.floor(v));
    const fu = u - i, fv = v - j;
    const base = 3 * (j * width + i), below = base + 3 * width;
    for (let k = 0; k < 3; k++) {
      out[k] = (1 - fv) * ((1 - fu) * values[base + k] + fu * values[base + 3 + k])
        + fv * ((1 - fu) * values[below + k] + fu * values[below + 3 + k]);
    }
    return out;
  };
  return { at };
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
    const points = pulledPoints(correspondence, plane, index);
    const moved = [0, 0, 0];
    plane.each(index, (voxel, pixel) => {
      for (let k = 0; k < 3; k++) moved[k] = points[3 * pixel + k] - voxel[k];
      out[pixel] = turnedLength(correspondence.affine, moved);
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
