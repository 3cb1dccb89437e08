// From source to target and back: through the fields and the affines of both grids.

import { apply, difference, invert, length, multiply } from "./affine.js";

const STEPS = 32;
const AGREES = 0.5;

export class Correspondence {
  /** ddf, inverse and velocity are Fields (velocity may be null); the affines lead from voxels to mm. */
  constructor(ddf, inverse, velocity, affine, sourceAffine) {
    Object.assign(this, { ddf, inverse, affine, sourceAffine });
    this.toSource = multiply(invert(sourceAffine), affine);
    this.toTarget = invert(this.toSource);
    this.velocity = null;
    this.misses = 0;
    this.setVelocity(velocity);
  }

  /** Use a velocity for paths and frames, if its flow leads to the field. */
  setVelocity(velocity) {
    if (!velocity) return;
    this.misses = this.flowMiss(velocity);
    this.velocity = this.misses <= AGREES ? velocity : null;
  }

  /** Source voxel of a target voxel. */
  origin(p, out = [0, 0, 0]) {
    this.ddf.at(p[0], p[1], p[2], out);
    for (let k = 0; k < 3; k++) out[k] += p[k];
    return apply(this.toSource, out, out);
  }

  /** Target voxel of a source voxel. */
  locate(q, out = [0, 0, 0]) {
    this.inverse.at(q[0], q[1], q[2], out);
    for (let k = 0; k < 3; k++) out[k] += q[k];
    return apply(this.toTarget, out, out);
  }

  sourceMm(q) {
    return apply(this.sourceAffine, q);
  }

  targetMm(p) {
    return apply(this.affine, p);
  }

  /** Where the frame of time t (0 source, 1 warped) reads the source, in target voxels. */
  framePoint(p, t, out = [0, 0, 0]) {
    if (!this.velocity || t === 1) {
      this.ddf.at(p[0], p[1], p[2], out);
      for (let k = 0; k < 3; k++) out[k] = p[k] + t * out[k];
      return out;
    }
    return this.flow(this.velocity, p, t, Math.max(1, Math.ceil(8 * t)), out);
  }

  /** Points from the target voxel p to its origin, both in target voxels: first p, last p + ddf(p). */
  path(p) {
    const end = this.framePoint(p, 1);
    const points = [[...p]];
    for (let step = 1; step <= STEPS; step++) {
      if (!this.velocity) {
        points.push(p.map((value, k) => value + (step / STEPS) * (end[k] - value)));
      } else {
        points.push(this.flow(this.velocity, points[step - 1], 1 / STEPS, 1));
      }
    }
    return points;
  }

  /** Where the tissue of a path is in the frame of time t. */
  onFrame(path, t) {
    const place = (1 - t) * STEPS;
    const k = Math.min(STEPS - 1, Math.floor(place));
    const between = path[k].map((value, part) => value + (place - k) * (path[k + 1][part] - value));
    return this.velocity ? between : this.straightFramePoint(path[STEPS], t, between);
  }

  /** The r with r + t·ddf(r) = q; without a velocity the frames are those of t·ddf. */
  straightFramePoint(q, t, guess) {
    let r = guess;
    const moved = [0, 0, 0];
    for (let round = 0; round < 30; round++) {
      this.ddf.at(r[0], r[1], r[2], moved);
      const next = q.map((value, k) => value - t * moved[k]);
      const step = length(difference(next, r));
      r = next;
      if (step < 1e-3) return r;
    }
    return guess;
  }

  /** Follow a stationary velocity for a time, by midpoint steps. */
  flow(velocity, p, time, steps, out = [0, 0, 0]) {
    const v = [0, 0, 0];
    let [x, y, z] = p;
    const h = time / steps;
    for (let step = 0; step < steps; step++) {
      velocity.at(x, y, z, v);
      velocity.at(x + (h / 2) * v[0], y + (h / 2) * v[1], z + (h / 2) * v[2], v);
      x += h * v[0];
      y += h * v[1];
      z += h * v[2];
    }
    out[0] = x;
    out[1] = y;
    out[2] = z;
    return out;
  }

  /** How far, in voxels, the flow of a velocity ends up from the field: the 99th percentile over a lattice. */
  flowMiss(velocity) {
    const shape = this.ddf.shape;
    const misses = [];
    const lattice = shape.map((size) => Math.min(size, shape[2] > 1 ? 12 : 40));
    for (let i = 0; i < lattice[0]; i++) {
      for (let j = 0; j < lattice[1]; j++) {
        for (let k = 0; k < lattice[2]; k++) {
          const p = [i, j, k].map((index, axis) => ((index + 0.5) / lattice[axis]) * (shape[axis] - 1));
          const end = this.flow(velocity, p, 1, 16);
          const moved = this.ddf.at(p[0], p[1], p[2], [0, 0, 0]);
          misses.push(length(difference(end, p.map((value, axis) => value + moved[axis]))));
        }
      }
    }
    misses.sort((a, b) => a - b);
    return misses[Math.floor(0.99 * (misses.length - 1))];
  }
}
