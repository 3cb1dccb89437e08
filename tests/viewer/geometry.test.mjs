// Matrices, planes, grids and correspondence, with values from arithmetic.

import assert from "node:assert/strict";
import { test } from "node:test";

import { apply, determinant, difference, invert, length, multiply, turnedLength } from "../../medtrace/report/viewer/assets/affine.js";
import { Correspondence } from "../../medtrace/report/viewer/assets/correspondence.js";
import { Field, Volume } from "../../medtrace/report/viewer/assets/grid.js";
import { Plane } from "../../medtrace/report/viewer/assets/plane.js";

const IDENTITY = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1];
const OBLIQUE = [0, -2, 0, 10, 1.5, 0, 0, -4, 0, 0, 3, 7, 0, 0, 0, 1];

function near(received, expected, tolerance = 1e-6) {
  assert.equal(received.length, expected.length);
  received.forEach((value, k) => assert.ok(Math.abs(value - expected[k]) <= tolerance, `${received} is not ${expected}`));
}

/** A field (3 components) on a grid from a function of the voxel. */
function fieldOf(shape, vector, stored = shape) {
  const count = stored[0] * stored[1] * stored[2];
  const values = new Float32Array(3 * count);
  for (let i = 0, at = 0; i < stored[0]; i++) {
    for (let j = 0; j < stored[1]; j++) {
      for (let k = 0; k < stored[2]; k++, at++) {
        const voxel = [i, j, k].map((index, axis) => (stored[axis] > 1 ? (index * (shape[axis] - 1)) / (stored[axis] - 1) : 0));
        vector(voxel).forEach((value, part) => {
          values[part * count + at] = value;
        });
      }
    }
  }
  return new Field({ values, shape: [3, ...stored], scale: 1, error: 0 }, shape);
}

test("a matrix is applied, multiplied and inverted", () => {
  near(apply(OBLIQUE, [1, 2, 3]), [6, -2.5, 16]);
  near(multiply(OBLIQUE, invert(OBLIQUE)), IDENTITY);
  near(apply(invert(OBLIQUE), apply(OBLIQUE, [4, -5, 6])), [4, -5, 6]);
  assert.equal(turnedLength(OBLIQUE, [1, 0, 0]), 1.5); // the shift does not count
});

test("vectors and determinants", () => {
  assert.equal(length(difference([4, 6, 0], [1, 2, 0])), 5);
  assert.equal(determinant([[2, 0, 0], [0, 3, 0], [0, 0, 4]]), 24);
  assert.equal(determinant([[0, 1, 0], [1, 0, 0], [0, 0, 1]]), -1); // a reflection
});

test("a plane flips, and its pixels measure mm", () => {
  const planes = { axial: { horizontal: 0, vertical: 1, normal: 2, flipHorizontal: true, flipVertical: false } };
  const plane = new Plane({ shape: [10, 20, 5], affine: OBLIQUE, planes }, "axial");
  assert.deepEqual([plane.width, plane.height, plane.slices], [10, 20, 5]);
  assert.deepEqual([plane.pixelWidth, plane.pixelHeight, plane.sliceThickness, plane.pixelArea], [1.5, 2, 3, 3]);
  assert.deepEqual(plane.toPage([3, 4, 2]), [6, 4]);
  assert.deepEqual(plane.toVoxel(6, 4, 2), [3, 4, 2]);
  assert.equal(plane.slice([0, 0, 7.2]), 4); // the last one
  const visited = [];
  plane.each(1, (voxel, pixel) => visited.push([...voxel, pixel]));
  assert.equal(visited.length, 200);
  assert.deepEqual(visited[0], [9, 0, 1, 0]);
});

test("a volume is read between its voxels, and at its border beyond", () => {
  const values = Float32Array.from({ length: 8 }, (_, k) => k); // 2 x 2 x 2
  const volume = new Volume({ values, shape: [1, 2, 2, 2], scale: 10, offset: 1, error: 0 });
  assert.equal(volume.voxel(1, 0, 1), 51);
  assert.equal(volume.linear(0.5, 0.5, 0.5), 36); // the middle of 0 to 7
  assert.equal(volume.linear(-3, 0, 9), volume.voxel(0, 0, 1));
  assert.equal(volume.nearest(0.6, 0.4, 0), volume.voxel(1, 0, 0));
});

test("a preview of every second voxel is read between them", () => {
  const values = Float32Array.from([0, 2, 4, 6, 8, 10, 12, 14]); // voxels 0 and 2 of three axes: 4 x + 2 y + z
  const volume = new Volume({ values, shape: [1, 2, 2, 2], full: [4, 4, 3], scale: 1, offset: 0, error: 0 });
  assert.deepEqual(volume.shape, [4, 4, 3]);
  assert.equal(volume.voxel(1, 2, 1), 9);
  assert.equal(volume.linear(3, 0, 0), volume.voxel(2, 0, 0)); // beyond the last that is stored
  const planes = { axial: { horizontal: 0, vertical: 1, normal: 2, flipHorizontal: false, flipVertical: false } };
  const plane = new Plane({ shape: [4, 4, 3], affine: IDENTITY, planes }, "axial");
  const slice = volume.slice(plane, 1, 0, new Float32Array(16));
  assert.deepEqual([...slice.subarray(0, 4)], [1, 5, 9, 9]);
});

test("a field stored at half resolution is read on the full grid", () => {
  const field = fieldOf([5, 5, 1], ([x, y]) => [2 * x, -y, 0], [3, 3, 1]);
  near(field.at(1, 3, 0, [0, 0, 0]), [2, -3, 0]);
  near(field.at(2.5, 2.5, 0, [0, 0, 0]), [5, -2.5, 0]);
});

test("the Jacobian of p + field(p)", () => {
  const stretched = fieldOf([9, 9, 1], ([x]) => [0.5 * x, 0, 0]);
  assert.ok(Math.abs(stretched.jacobian(4, 4, 0) - 1.5) < 1e-6);
  const folded = fieldOf([9, 9, 1], ([x]) => [-2 * x, 0, 0]);
  assert.ok(folded.jacobian(4, 4, 0) < 0);
});

test("points go from target to source and back, also between grids", () => {
  const shape = [8, 8, 1];
  const ddf = fieldOf(shape, () => [1, -2, 0]);
  const inverse = fieldOf(shape, () => [-1, 2, 0]);
  const same = new Correspondence(ddf, inverse, null, IDENTITY, IDENTITY);
  near(same.origin([3, 4, 0]), [4, 2, 0]);
  near(same.locate(same.origin([3, 4, 0])), [3, 4, 0]);
  const shifted = [1, 0, 0, 5, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1];
  const other = new Correspondence(ddf, inverse, null, IDENTITY, shifted);
  near(other.origin([3, 4, 0]), [-1, 2, 0]); // the source's grid starts 5 mm further
});

test("a path is straight without a velocity, and a velocity that leads elsewhere is not used", () => {
  const shape = [8, 8, 1];
  const ddf = fieldOf(shape, () => [2, 0, 0]), inverse = fieldOf(shape, () => [-2, 0, 0]);
  const straight = new Correspondence(ddf, inverse, null, IDENTITY, IDENTITY);
  const path = straight.path([1, 1, 0]);
  near(path[0], [1, 1, 0]);
  near(path.at(-1), [3, 1, 0]);
  near(straight.framePoint([1, 1, 0], 0.5), [2, 1, 0]);
  const flow = new Correspondence(ddf, inverse, fieldOf(shape, () => [2, 0, 0]), IDENTITY, IDENTITY);
  assert.ok(flow.velocity);
  near(flow.path([1, 1, 0]).at(-1), [3, 1, 0], 1e-4);
  const wrong = new Correspondence(ddf, inverse, fieldOf(shape, () => [0, 3, 0]), IDENTITY, IDENTITY);
  assert.equal(wrong.velocity, null);
  assert.ok(wrong.misses > 3);
});
