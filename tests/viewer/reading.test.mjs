// Regions, contours, colors, decoding and the reader's scores.

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { test } from "node:test";

import { ColorMap, shade } from "../../medtrace/report/viewer/assets/colors.js";
import { contour } from "../../medtrace/report/viewer/assets/contours.js";
import { inside, makeRegion, polygonArea } from "../../medtrace/report/viewer/assets/regions.js";
import { placeOf, ticksOf } from "../../medtrace/report/viewer/assets/slices.js";

const SQUARE = [[1, 1], [5, 1], [5, 4], [1, 4]];

test("a polygon has an inside and an area", () => {
  assert.equal(polygonArea(SQUARE), 12);
  assert.equal(polygonArea([...SQUARE].reverse()), 12);
  assert.ok(inside(SQUARE, 3, 2));
  assert.ok(!inside(SQUARE, 6, 2));
  const notched = [[0, 0], [4, 0], [4, 4], [2, 1], [0, 4]];
  assert.ok(!inside(notched, 2, 3)); // in the notch
});

test("regions have names and colors of their own", () => {
  const [first, second] = [1, 2].map(() => makeRegion("source", "axial", 3, SQUARE, 1));
  assert.equal(second.id, first.id + 1);
  assert.notEqual(first.color, second.color);
});

test("a contour crosses where the level lies", () => {
  const ramp = Float32Array.from({ length: 9 }, (_, k) => k % 3); // columns 0, 1, 2
  const segments = contour(ramp, 3, 3, 0.25);
  assert.equal(segments.length, 8); // a segment in either row of cells
  for (let at = 0; at < segments.length; at += 2) assert.equal(segments[at], 0.25);
  assert.deepEqual(contour(ramp, 3, 3, 5), []);
});

test("an intensity window maps black and white", () => {
  const rgba = new Uint8ClampedArray(12);
  shade([0, 20, 200], 1, [0, 100], rgba);
  assert.deepEqual([rgba[0], rgba[4], rgba[8], rgba[3]], [0, 51, 255, 255]);
});

test("a color map mixes by opacity", () => {
  const table = new Uint8Array(768).fill(200);
  const map = new ColorMap(Buffer.from(table).toString("base64"));
  const rgba = [100, 100, 100, 255];
  map.mix(0.5, 0.5, rgba, 0);
  assert.deepEqual(rgba, [150, 150, 150, 255]);
  assert.match(map.css(), /^linear-gradient\(to right, rgb\(200,200,200\)/);
});

test("maps have their middle where nothing changes", () => {
  assert.equal(placeOf("displacement", 2, 4), 0.5);
  assert.equal(placeOf("jacobian", 1, 2), 0.5);
  assert.equal(placeOf("jacobian", 4, 2), 1);
  assert.equal(placeOf("residual", -3, 3), 0);
  assert.deepEqual(ticksOf("jacobian", 1), ["0.5", "1", "2"]);
  assert.deepEqual(ticksOf("error", 12.3456), ["-12.3", "0", "12.3"]);
});
