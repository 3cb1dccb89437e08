// Regions that the reader draws: their size, before and after.

import { SERIES } from "./colors.js";
import { locatedPoints, originPoints } from "./slices.js";

const MOST_SAMPLES = 60000;

let made = 0;

/** polygon: page points [u, v] of a slice; depth: slices, centered on it. */
export function makeRegion(side, planeName, index, polygon, depth) {
  made += 1;
  return {
    id: made, name: `region ${made}`, color: SERIES[(made - 1) % SERIES.length],
    side, planeName, index, polygon, depth,
  };
}

export function inside(polygon, u, v) {
  let odd = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const [ui, vi] = polygon[i], [uj, vj] = polygon[j];
    if (vi > v !== vj > v && u < ((uj - ui) * (v - vi)) / (vj - vi) + ui) odd = !odd;
  }
  return odd;
}

export function polygonArea(polygon) {
  let twice = 0;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    twice += polygon[j][0] * polygon[i][1] - polygon[i][0] * polygon[j][1];
  }
  return Math.abs(twice) / 2;
}

/**
 * Size on its own side and on the other, in mm² for a 2D trace and mm³ for a volume: the other is the size times the
 * mean Jacobian of the map over the region.
 */
export function measure(model, region) {
  const plane = model.planes[region.planeName][region.side];
  const field = region.side === "source" ? model.correspondence.inverse : model.correspondence.ddf;
  const thickness = model.is3d ? region.depth * plane.sliceThickness : 1;
  const own = polygonArea(region.polygon) * plane.pixelArea * thickness;
  const other = own * meanJacobian(field, plane, region);
  const [before, after] = region.side === "source" ? [own, other] : [other, own];
  return { before, after, unit: model.is3d ? "mm³" : "mm²", change: before > 0 ? (100 * (after - before)) / before : NaN };
}

function bounds(polygon) {
  const us = polygon.map((point) => point[0]), vs = polygon.map((point) => point[1]);
  return [Math.min(...us), Math.max(...us), Math.min(...vs), Math.max(...vs)];
}

function meanJacobian(field, plane, region) {
  const [left, right, top, bottom] = bounds(region.polygon);
  const slices = sliceOffsets(region.depth);
  const area = Math.max((right - left) * (bottom - top), 1e-6);
  const step = Math.max(Math.min(0.5, Math.sqrt(area) / 30), Math.sqrt((area * slices.length) / MOST_SAMPLES));
  let sum = 0, count = 0;
  for (let v = top + step / 2; v < bottom; v += step) {
    for (let u = left + step / 2; u < right; u += step) {
      if (!inside(region.polygon, u, v)) continue;
      for (const offset of slices) {
        sum += field.jacobian(...plane.toVoxel(u, v, region.index + offset), 0.5);
        count += 1;
      }
    }
  }
  return count ? sum / count : NaN;
}

function sliceOffsets(depth) {
  return Array.from({ length: depth }, (_, k) => k - (depth - 1) / 2);
}

/** Which pixels of a slice belong to a region: 1 or 0, row by row. `side` is the grid of the slice. */
export function regionMask(model, region, side, planeName, index) {
  const shown = model.planes[planeName][side];
  const own = model.planes[region.planeName][region.side];
  const out = new Uint8Array(shown.width * shown.height);
  const half = model.is3d ? region.depth / 2 : 0.5;
  const points = side === region.side ? null
    : (side === "target" ? originPoints : locatedPoints)(model.correspondence, shown, index);
  shown.each(index, (voxel, pixel) => {
    const point = points ? points.subarray(3 * pixel, 3 * pixel + 3) : voxel;
    if (Math.abs(point[own.normal] - region.index) > half) return;
    const [u, v] = own.toPage(point);
    out[pixel] = inside(region.polygon, u, v) ? 1 : 0;
  });
  return out;
}

/** The region's outline on the other side, in its voxels: every edge in steps of half a voxel. */
export function carriedOutline(model, region) {
  const plane = model.planes[region.planeName][region.side];
  const points = [];
  region.polygon.forEach(([u, v], k) => {
    const [nextU, nextV] = region.polygon[(k + 1) % region.polygon.length];
    const steps = Math.max(1, Math.ceil(2 * Math.hypot(nextU - u, nextV - v)));
    for (let step = 0; step < steps; step++) {
      const part = step / steps;
      const voxel = plane.toVoxel(u + part * (nextU - u), v + part * (nextV - v), region.index);
      points.push(region.side === "source" ? model.correspondence.locate(voxel) : model.correspondence.origin(voxel));
    }
  });
  return points;
}
