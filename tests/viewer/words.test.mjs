// The spot in words, scale bars, and pictures in rows and columns.

import assert from "node:assert/strict";
import { test } from "node:test";

import { columnsFor } from "../../medtrace/report/viewer/assets/arranging.js";
import { niceLength } from "../../medtrace/report/viewer/assets/marks.js";
import { directions } from "../../medtrace/report/viewer/assets/words.js";

test("a displacement in RAS mm is told largest part first", () => {
  assert.equal(directions([-4.9, 0.01, 2.1]), "4.9 mm left, 2.1 mm up");
  assert.equal(directions([0.3, -6, -0.2]), "6.0 mm back, 0.3 mm right, 0.2 mm down");
  assert.equal(directions([0, 0.04, 0]), "");
});

test("a photograph has pixels, and its own right and down", () => {
  assert.equal(directions([-3, 2, 0], true), "3.0 px right, 2.0 px up");
});

test("a scale bar is 1, 2 or 5 times a power of ten, and no longer than it may be", () => {
  for (const [limit, size] of [[72, 50], [50, 50], [49.9, 20], [1.2, 1], [0.3, 0.2], [100, 100]]) {
    assert.ok(Math.abs(niceLength(limit) - size) < 1e-9, `${limit}`);
  }
});

test("pictures stand in as many columns as make them largest", () => {
  assert.equal(columnsFor(4, 1, 1000, 1000, 30), 2);
  assert.equal(columnsFor(4, 1, 2000, 500, 30), 4);
  assert.equal(columnsFor(5, 1, 1036, 640, 34), 3);
  assert.equal(columnsFor(1, 1, 300, 900, 30), 1);
});
