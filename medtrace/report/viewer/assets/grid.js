// Images and fields read between their voxels, linearly; beyond the border, as at the border.

function clamp(value, last) {
  return value < 0 ? 0 : value > last ? last : value;
}

/** Intensities (or labels) on a grid. */
export class Volume {
  constructor(array) {
    [this.channels, ...this.shape] = array.shape;
    this.values = array.values;
    this.scale = array.scale;
    this.offset = array.offset;
    this.error = array.error;
    this.count = this.shape[0] * this.shape[1] * this.shape[2];
  }

  /** At whole numbers inside the grid. */
  voxel(x, y, z, channel = 0) {
    const [, n1, n2] = this.shape;
    return this.values[channel * this.count + (x * n1 + y) * n2 + z] * this.scale + this.offset;
  }

  nearest(x, y, z, channel = 0) {
    const [n0, n1, n2] = this.shape;
    return this.voxel(
      Math.round(clamp(x, n0 - 1)), Math.round(clamp(y, n1 - 1)), Math.round(clamp(z, n2 - 1)), channel,
    );
  }

  linear(x, y, z, channel = 0) {
    const [n0, n1, n2] = this.shape;
    x = clamp(x, n0 - 1);
    y = clamp(y, n1 - 1);
    z = clamp(z, n2 - 1);
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
    const [a, b, c] = columns;
    return a[0] * (b[1] * c[2] - b[2] * c[1]) - b[0] * (a[1] * c[2] - a[2] * c[1]) + c[0] * (a[1] * b[2] - a[2] * b[1]);
  }
}
