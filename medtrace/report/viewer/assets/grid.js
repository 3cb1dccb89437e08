// Images and fields read between their voxels, linearly; beyond the border, as at the border.

import { determinant } from "./affine.js";

function clamp(value, last) {
  return value < 0 ? 0 : value > last ? last : value;
}

/** The two axes of a plane, the one whose neighbors are farther apart in memory first. */
function inMemory({ horizontal, vertical }) {
  return horizontal < vertical ? [horizontal, vertical] : [vertical, horizontal];
}

/** Where `size` pixels in a row lie among `stored` numbers: the number before each, and the fraction of the next. */
function places(size, flipped, ratio, stored) {
  const before = new Int32Array(size), share = new Float32Array(size);
  for (let pixel = 0; pixel < size; pixel++) {
    const place = clamp((flipped ? size - 1 - pixel : pixel) * ratio, stored - 1);
    before[pixel] = Math.floor(place);
    share[pixel] = place - before[pixel];
  }
  return [before, share];
}

/** Intensities (or labels) on a grid; for a preview, every second number along every axis is stored. */
export class Volume {
  constructor(array) {
    [this.channels, ...this.stored] = array.shape;
    this.shape = array.full ?? this.stored;
    this.step = array.full ? 0.5 : 1;
    this.values = array.values;
    this.scale = array.scale;
    this.offset = array.offset;
    this.error = array.error;
    this.count = this.stored[0] * this.stored[1] * this.stored[2];
  }

  /** At whole numbers inside the grid. */
  voxel(x, y, z, channel = 0) {
    if (this.step !== 1) return this.linear(x, y, z, channel);
    const [, n1, n2] = this.shape;
    return this.values[channel * this.count + (x * n1 + y) * n2 + z] * this.scale + this.offset;
  }

  /** A channel of the grid's own slice. */
  slice(plane, index, channel, out) {
    if (this.step !== 1) {
      plane.each(index, (voxel, pixel) => (out[pixel] = this.linear(...voxel, channel)));
      return out;
    }
    const strides = [this.shape[1] * this.shape[2], this.shape[2], 1];
    const { values, scale, offset } = this;
    const first = plane.toPage([0, 0, 0]);
    const steps = {
      [plane.horizontal]: plane.flipHorizontal ? -1 : 1, [plane.vertical]: plane.width * (plane.flipVertical ? -1 : 1),
    };
    const [slow, fast] = inMemory(plane);
    for (let i = 0; i < this.shape[slow]; i++) {
      let at = channel * this.count + index * strides[plane.normal] + i * strides[slow];
      let pixel = first[1] * plane.width + first[0] + i * steps[slow];
      for (let j = 0; j < this.shape[fast]; j++, at += strides[fast], pixel += steps[fast]) {
        out[pixel] = values[at] * scale + offset;
      }
    }
    return out;
  }

  nearest(x, y, z, channel = 0) {
    const [n0, n1, n2] = this.shape;
    return this.voxel(
      Math.round(clamp(x, n0 - 1)), Math.round(clamp(y, n1 - 1)), Math.round(clamp(z, n2 - 1)), channel,
    );
  }

  linear(x, y, z, channel = 0) {
    const [n0, n1, n2] = this.stored;
    x = clamp(x * this.step, n0 - 1);
    y = clamp(y * this.step, n1 - 1);
    z = clamp(z * this.step, n2 - 1);
    const i = Math.floor(x), j = Math.floor(y), k = Math.floor(z);
    const fx = x - i, fy = y - j, fz = z - k;
    const values = this.values;
    const base = channel * this.count + (i * n1 + j) * n2 + k;
    const dx = fx > 0 ? n1 * n2 : 0, dy = fy > 0 ? n2 : 0, dz = fz > 0 ? 1 : 0;
    const low = (1 - fy) * ((1 - fz) * values[base] + fz * values[base + dz])
      + fy * ((1 - fz) * values[base + dy] + fz * values[base + dy + dz]);
    const high = (1 - fy) * ((1 - fz) * values[base + dx] + fz * values[base + dx + dz])
      + fy * ((1 - fz) * values[base + dx + dy] + fz * values[base + dx + dy + dz]);
    return ((1 - fx) * low + fx * high) * this.scale + this.offset;
  }
}

/** Displacements or velocities in voxels of a grid, perhaps stored on a coarser one over the same extent. */
export class Field {
  constructor(array, shape) {
    [, ...this.stored] = array.shape;
    this.shape = shape;
    this.values = array.values;
    this.scale = array.scale;
    this.error = array.error;
    this.count = this.stored[0] * this.stored[1] * this.stored[2];
    this.ratio = shape.map((size, axis) => (size > 1 ? (this.stored[axis] - 1) / (size - 1) : 0));
  }

  at(x, y, z, out) {
    const [m0, m1, m2] = this.stored;
    x = clamp(x * this.ratio[0], m0 - 1);
    y = clamp(y * this.ratio[1], m1 - 1);
    z = clamp(z * this.ratio[2], m2 - 1);
    const i = Math.floor(x), j = Math.floor(y), k = Math.floor(z);
    const fx = x - i, fy = y - j, fz = z - k;
    const base = (i * m1 + j) * m2 + k;
    const dx = fx > 0 ? m1 * m2 : 0, dy = fy > 0 ? m2 : 0, dz = fz > 0 ? 1 : 0;
    const values = this.values;
    for (let part = 0; part < 3; part++) {
      const start = part * this.count + base;
      const low = (1 - fy) * ((1 - fz) * values[start] + fz * values[start + dz])
        + fy * ((1 - fz) * values[start + dy] + fz * values[start + dy + dz]);
      const high = (1 - fy) * ((1 - fz) * values[start + dx] + fz * values[start + dx + dz])
        + fy * ((1 - fz) * values[start + dx + dy] + fz * values[start + dx + dy + dz]);
      out[part] = ((1 - fx) * low + fx * high) * this.scale;
    }
    return out;
  }

  /** The vectors over a slice, three numbers per pixel: read between sheets first, then along rows, then down columns. */
  slice(plane, index) {
    const { horizontal, vertical, width, height } = plane;
    const across = this.stored[horizontal], down = this.stored[vertical];
    const sheet = this.sheet(plane, index);
    const [left, byColumn] = places(width, plane.flipHorizontal, this.ratio[horizontal], across);
    const [top, byRow] = places(height, plane.flipVertical, this.ratio[vertical], down);
    const rows = new Float32Array(3 * width * down);
    for (let v = 0, to = 0; v < down; v++) {
      for (let u = 0; u < width; u++) {
        const from = 3 * (v * across + left[u]), next = left[u] + 1 < across ? 3 : 0, part = byColumn[u];
        for (let k = 0; k < 3; k++, to++) rows[to] = sheet[from + k] + part * (sheet[from + next + k] - sheet[from + k]);
      }
    }
    const out = new Float32Array(3 * width * height);
    for (let v = 0, to = 0; v < height; v++) {
      const part = byRow[v], next = top[v] + 1 < down ? 3 * width : 0;
      for (let from = 3 * width * top[v], end = from + 3 * width; from < end; from++, to++) {
        out[to] = rows[from] + part * (rows[from + next] - rows[from]);
      }
    }
    return out;
  }

  /** The stored numbers of a slice, three per position. */
  sheet(plane, index) {
    const strides = [this.stored[1] * this.stored[2], this.stored[2], 1];
    const { normal } = plane;
    const across = this.stored[plane.horizontal];
    const z = clamp(index * this.ratio[normal], this.stored[normal] - 1);
    const k = Math.floor(z), part = z - k;
    const next = part > 0 ? strides[normal] : 0;
    const { values, scale } = this;
    const out = new Float32Array(3 * across * this.stored[plane.vertical]);
    const steps = { [plane.horizontal]: 3, [plane.vertical]: 3 * across };
    const [slow, fast] = inMemory(plane); // far apart in memory in the outer loop, neighbors in the inner one: the cache decides the time
    for (let component = 0; component < 3; component++) {
      for (let i = 0; i < this.stored[slow]; i++) {
        let at = component * this.count + k * strides[normal] + i * strides[slow], to = component + i * steps[slow];
        for (let j = 0; j < this.stored[fast]; j++, at += strides[fast], to += steps[fast]) {
          out[to] = ((1 - part) * values[at] + part * values[at + next]) * scale;
        }
      }
    }
    return out;
  }

  /** Determinant of the derivative of p -> p + field(p): central differences over 2·reach voxels, less at the border. */
  jacobian(x, y, z, reach = 1) {
    const columns = this.shape.map((size, axis) => {
      const column = [0, 0, 0];
      column[axis] = 1;
      if (size === 1) return column;
      const low = [x, y, z], high = [x, y, z];
      low[axis] = clamp(low[axis] - reach, size - 1);
      high[axis] = clamp(high[axis] + reach, size - 1);
      const span = high[axis] - low[axis];
      const before = this.at(...low, [0, 0, 0]), after = this.at(...high, [0, 0, 0]);
      return column.map((value, part) => value + (after[part] - before[part]) / span);
    });
    return determinant(columns);
  }
}
