// What is shown in a slice: images, frames of the flow, and maps of the change.

import { apply, determinant, turnedLength } from "./affine.js";

const FLOW_STEP = 3;
const LARGE_SLICE = 128 * 128;

/** Maps that the reader may choose: their heading, unit, colors and the value of "nothing". */
export const MAPS = {
  none: { title: "no map", unit: "", colors: "amount" },
  displacement: { title: "displacement", unit: "mm", colors: "amount" },
  jacobian: { title: "Jacobian", unit: "", colors: "change" },
  appearance: { title: "appearance change", unit: "", colors: "change" },
  residual: { title: "unexplained residual", unit: "", colors: "change" },
  trust: { title: "change that nothing explains", unit: "", colors: "change" },
  error: { title: "error (target − image)", unit: "", colors: "change" },
};

/** Intensities of a grid's own slice, one chosen channel after the other. */
export function imageSlice(volume, plane, index, channels) {
  const count = plane.width * plane.height;
  const out = new Float32Array(count * channels.length);
  channels.forEach((channel, k) => volume.slice(plane, index, channel, out.subarray(k * count, (k + 1) * count)));
  return out;
}

/** The source as the frame of time t shows it on the target grid. */
export function frameSlice(model, plane, index, t, channels) {
  const { source, correspondence } = model;
  const count = plane.width * plane.height;
  const out = new Float32Array(count * channels.length);
  if (t === 1) {
    const points = originPoints(correspondence, plane, index);
    channels.forEach((channel, k) => {
      for (let pixel = 0, at = 0, to = k * count; pixel < count; pixel++, at += 3, to++) {
        out[to] = source.linear(points[at], points[at + 1], points[at + 2], channel);
      }
    });
    return out;
  }
  const place = [0, 0, 0];
  framePoints(correspondence, plane, index, t, (point, pixel) => {
    apply(correspondence.toSource, point, place);
    channels.forEach((channel, k) => {
      out[k * count + pixel] = source.linear(place[0], place[1], place[2], channel);
    });
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

/** p + ddf(p) of every pixel p of a target slice, in target voxels, three numbers each; the last slice's are kept. */
export function pulledPoints(correspondence, plane, index) {
  return lastSlice(correspondence, "pulled", plane, index, () => movedPoints(correspondence.ddf, plane, index));
}

/** The source voxel of every pixel of a target slice. */
export function originPoints(correspondence, plane, index) {
  return lastSlice(correspondence, "origins", plane, index, () => (
    through(correspondence.toSource, pulledPoints(correspondence, plane, index))
  ));
}

/** The target voxel of every pixel of a source slice. */
export function locatedPoints(correspondence, plane, index) {
  return lastSlice(correspondence, "located", plane, index, () => (
    through(correspondence.toTarget, movedPoints(correspondence.inverse, plane, index))
  ));
}

function lastSlice(correspondence, name, plane, index, make) {
  const key = `${plane.normal} ${index}`;
  if (correspondence[name]?.key !== key) correspondence[name] = { key, points: make() };
  return correspondence[name].points;
}

function movedPoints(field, plane, index) {
  const points = field.slice(plane, index);
  plane.each(index, (voxel, pixel) => {
    points[3 * pixel] += voxel[0];
    points[3 * pixel + 1] += voxel[1];
    points[3 * pixel + 2] += voxel[2];
  });
  return points;
}

function through(matrix, points) {
  const out = new Float32Array(points.length);
  for (let at = 0; at < points.length; at += 3) {
    for (let row = 0; row < 3; row++) {
      const k = 4 * row;
      out[at + row] = matrix[k] * points[at] + matrix[k + 1] * points[at + 1] + matrix[k + 2] * points[at + 2] + matrix[k + 3];
    }
  }
  return out;
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

/** Frame of time t, whose intensities approach the final ones with time: frame + t·(image − warped). */
export function morphSlice(model, plane, index, t, channels) {
  const frame = frameSlice(model, plane, index, t, channels);
  if (model.source.channels !== model.image.channels) return frame;
  const warped = frameSlice(model, plane, index, 1, channels);
  const image = imageSlice(model.image, plane, index, channels);
  return frame.map((value, k) => value + t * (image[k] - warped[k]));
}

/** Values of a map over a slice of the target grid, of one channel where it is about intensity. */
export function mapSlice(model, name, plane, index, channel) {
  const { correspondence, image } = model;
  if (name === "jacobian") return jacobianSlice(correspondence.ddf, plane, index);
  if (name === "appearance" || name === "residual") return accountSlice(model, name, plane, index, channel);
  if (name === "trust") {
    const marked = model.unexplained.slice(plane, index, 0, new Float32Array(plane.width * plane.height));
    return accountSlice(model, "residual", plane, index, channel).map((value, pixel) => marked[pixel] * value);
  }
  const out = new Float32Array(plane.width * plane.height);
  if (name === "displacement") {
    const points = pulledPoints(correspondence, plane, index);
    const moved = [0, 0, 0];
    plane.each(index, (voxel, pixel) => {
      for (let k = 0; k < 3; k++) moved[k] = points[3 * pixel + k] - voxel[k];
      out[pixel] = turnedLength(correspondence.affine, moved);
    });
    return out;
  }
  const truth = imageSlice(model.truth, plane, index, [channel]);
  return imageSlice(image, plane, index, [channel]).map((value, pixel) => truth[pixel] - value);
}

/** Change that appearance explains, or the rest of the change, over a slice (see accountAt). */
function accountSlice(model, name, plane, index, channel) {
  const { kind, curves } = model.description.appearance;
  const warped = frameSlice(model, plane, index, 1, [channel]);
  const image = imageSlice(model.image, plane, index, [channel]);
  const stored = { mask: model.mask, stored: model.appearance }[kind];
  const values = stored?.slice(plane, index, kind === "mask" ? 0 : channel, new Float32Array(warped.length));
  return warped.map((before, pixel) => {
    const change = model.description.sameUnit ? image[pixel] - before : image[pixel];
    const explained = kind === "curve" ? onCurve(curves[channel], before) : kind === "mask" ? values[pixel] * change : values[pixel];
    return name === "appearance" ? explained : change - explained;
  });
}

/** Field.jacobian at every pixel of a slice. */
function jacobianSlice(field, plane, index) {
  const { width, height, horizontal, vertical, normal } = plane;
  const last = plane.slices - 1;
  const here = field.slice(plane, index);
  const [below, above] = [Math.max(index - 1, 0), Math.min(index + 1, last)];
  const sheets = last > 0 ? [field.slice(plane, below), field.slice(plane, above)] : [here, here];
  const turn = [plane.flipHorizontal ? -1 : 1, plane.flipVertical ? -1 : 1];
  const out = new Float32Array(width * height);
  const columns = [[0, 0, 0], [0, 0, 0], [0, 0, 0]];
  const slope = (axis, low, high, from, to, span) => {
    const column = columns[axis];
    for (let part = 0; part < 3; part++) {
      column[part] = (part === axis ? 1 : 0) + (span ? (high[3 * to + part] - low[3 * from + part]) / span : 0);
    }
  };
  for (let v = 0, pixel = 0; v < height; v++) {
    const up = v > 0 ? width : 0, down = v + 1 < height ? width : 0;
    for (let u = 0; u < width; u++, pixel++) {
      const left = u > 0 ? 1 : 0, right = u + 1 < width ? 1 : 0;
      slope(horizontal, here, here, pixel - left, pixel + right, turn[0] * (left + right));
      slope(vertical, here, here, pixel - up, pixel + down, (turn[1] * (up + down)) / width);
      slope(normal, sheets[0], sheets[1], pixel, pixel, above - below);
      out[pixel] = determinant(columns);
    }
  }
  return out;
}

/** The decomposition at a target voxel in the image's units: warped + appearance + residual = image; across units, without warped. */
export function accountAt(model, voxel, channel = 0) {
  const { image, source, mask, correspondence } = model;
  const q = correspondence.origin(voxel);
  const warped = source.linear(q[0], q[1], q[2], channel);
  const value = image.linear(voxel[0], voxel[1], voxel[2], channel);
  const change = model.description.sameUnit ? value - warped : value;
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

/** Position of a map's value on its color scale, in [0, 1]. */
export function placeOf(name, value, range) {
  if (name === "displacement") return value / range;
  if (name === "jacobian") return 0.5 + 0.5 * (Math.log2(Math.max(value, 1e-3)) / range);
  return 0.5 + 0.5 * (value / range);
}

/** The labels of the ends and the middle of a color bar. */
export function ticksOf(name, range) {
  const short = (value) => String(Number(value.toPrecision(3)));
  if (name === "displacement") return ["0", short(range / 2), short(range)];
  if (name === "jacobian") return [short(2 ** -range), "1", short(2 ** range)];
  return [short(-range), "0", short(range)];
}
