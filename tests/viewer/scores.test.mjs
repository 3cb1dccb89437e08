// The reader's scores and their files.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Scores, WHOLE, measureRegion } from "../../medtrace/report/viewer/assets/scores.js";

function viewerOf(...regions) {
  return { scene: { medtrace: "1", cases: [{ name: "first", method: "unet" }] }, regions: [regions] };
}

const REGION = { id: 4, name: "region 1", side: "source", planeName: "axial", index: 0, depth: 1, mm: [[0, 0, 0]] };

test("a score is kept until it is saved", () => {
  const scores = new Scores();
  assert.ok(scores.saved);
  scores.set(0, null, "realism", 2);
  assert.ok(!scores.saved);
  assert.equal(scores.get(0, null).realism, 2);
  assert.equal(scores.get(0, REGION).realism, undefined);
});

test("rows are the whole image where it was scored, and every region", () => {
  const scores = new Scores();
  assert.deepEqual(scores.rows(viewerOf(), "me"), []);
  scores.set(0, null, "realism", 3);
  const rows = scores.rows(viewerOf({ ...REGION, size: { before: 2, after: 3, unit: "mm²", change: 50 } }), "me");
  assert.deepEqual(rows.map((row) => [row.region, row.realism, row.change_percent]), [[WHOLE, 3, null], ["region 1", null, 50]]);
});

test("a spreadsheet takes no text for a formula", () => {
  const scores = new Scores();
  scores.set(0, null, "comment", '=SUM(A1) "x"');
  scores.set(0, null, "realism", 1);
  const [heads, row] = scores.csv(viewerOf(), "-reader").split("\r\n");
  assert.match(heads, /^"case","method","reader"/);
  assert.match(row, /"'-reader"/);
  assert.match(row, /"'=SUM\(A1\) ""x"""$/);
});

test("the JSON file has scores and outlines", () => {
  const scores = new Scores();
  scores.set(0, REGION, "realism", 1);
  const content = JSON.parse(scores.json(viewerOf(REGION), "me"));
  assert.equal(content.scores[0].reader, "me");
  assert.deepEqual(content.regions[0].regions[0].outline_ras_mm, [[0, 0, 0]]);
});

test("a region is measured on both sides", () => {
  const plane = { pixelArea: 2, sliceThickness: 5, toVoxel: (u, v, index) => [u, v, index] };
  const growing = { jacobian: () => 1.5 };
  const correspondence = { inverse: growing, ddf: growing, sourceMm: (q) => q.map((value) => value / 3) };
  const model = { planes: { axial: { source: plane } }, correspondence, is3d: false };
  const region = measureRegion(model, { ...REGION, polygon: [[0, 0], [4, 0], [4, 4], [0, 4]] });
  assert.deepEqual(region.size, { before: 32, after: 48, unit: "mm²", change: 50 });
  assert.deepEqual(region.mm[1], [1.333, 0, 0]);
  assert.equal(measureRegion({ ...model, is3d: true }, { ...region, depth: 2 }).size.before, 320); // two slices of 5 mm
});
