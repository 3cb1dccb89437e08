// Lines and marks over a pane: crosshair, path, grid, arrows, outlines, folds, regions.

import { LINES, SERIES } from "./colors.js";
import { contour } from "./contours.js";
import { framePoints, locatedPoints, originPoints } from "./slices.js";
import { carriedOutline, regionMask } from "./regions.js";

/** Light line with a dark casing, visible on black and on white. */
function stroke(context, color, width, trace, dash = []) {
  context.lineJoin = context.lineCap = "round";
  context.setLineDash(dash);
  for (const [style, extra] of [["rgba(0,0,0,0.65)", 1.6], [color, 0]]) {
    context.strokeStyle = style;
    context.lineWidth = width + extra;
    context.beginPath();
    trace(context);
    context.stroke();
  }
  context.setLineDash([]);
}

export function drawCross(pane, voxel, pinned) {
  const [x, y] = pane.voxelToScreen(voxel);
  const [gap, arm] = [5, 14];
  stroke(pane.context, LINES.cross, 1.6, (c) => {
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      c.moveTo(x + gap * dx, y + gap * dy);
      c.lineTo(x + arm * dx, y + arm * dy);
    }
    if (pinned) {
      c.moveTo(x + 3, y);
      c.arc(x, y, 3, 0, 2 * Math.PI);
    }
  });
}

/** voxels: points of the pane's grid, in order; a dot at the far end. */
export function drawPath(pane, voxels) {
  const points = voxels.map((voxel) => pane.voxelToScreen(voxel));
  const end = points[points.length - 1];
  stroke(pane.context, LINES.path, 1.8, (c) => {
    points.forEach(([x, y], k) => (k ? c.lineTo(x, y) : c.moveTo(x, y)));
    c.moveTo(end[0] + 2.5, end[1]);
    c.arc(...end, 2.5, 0, 2 * Math.PI);
  });
}

function drawSegments(pane, segments, color, width) {
  const { context } = pane;
  context.strokeStyle = color;
  context.lineWidth = width;
  context.beginPath();
  for (let k = 0; k < segments.length; k += 4) {
    context.moveTo(...pane.toScreen([segments[k], segments[k + 1]]));
    context.lineTo(...pane.toScreen([segments[k + 2], segments[k + 3]]));
  }
  context.stroke();
}

/** Straight lines of the source's space, deformed to the time of the frame. */
export function drawGrid(pane, model, time) {
  const flow = model.correspondence.velocity ? "flow" : "line";
  const segments = pane.keep("grid", `${time} ${flow}`, () => gridSegments(pane.plane, pane.index, model, time));
  drawSegments(pane, segments, LINES.grid, 1);
}

function gridSegments(plane, index, model, time) {
  const count = plane.width * plane.height;
  const places = [new Float32Array(count), new Float32Array(count)];
  framePoints(model.correspondence, plane, index, time, (point, pixel) => {
    places[0][pixel] = point[plane.horizontal];
    places[1][pixel] = point[plane.vertical];
  });
  const step = Math.max(plane.width * plane.pixelWidth, plane.height * plane.pixelHeight) / 24;
  const segments = [];
  [plane.horizontal, plane.vertical].forEach((axis, k) => {
    const spacing = step / (k ? plane.pixelHeight : plane.pixelWidth);
    for (let level = spacing / 2; level < plane.gridShape[axis]; level += spacing) {
      contour(places[k], plane.width, plane.height, level, segments);
    }
  });
  return segments;
}

/** From where tissue was to where it is now, projected into the slice. */
export function drawArrows(pane, model) {
  const { plane, index, context } = pane;
  const spacing = Math.max(2, Math.round(18 / pane.step[0]));
  const field = pane.side === "source" ? model.correspondence.inverse : model.correspondence.ddf;
  const moved = [0, 0, 0];
  context.fillStyle = context.strokeStyle = LINES.arrow;
  context.lineWidth = 1.3;
  for (let v = spacing >> 1; v < plane.height; v += spacing) {
    for (let u = spacing >> 1; u < plane.width; u += spacing) {
      const voxel = plane.toVoxel(u, v, index);
      if (!onTissue(model, pane.side, voxel)) continue;
      field.at(...voxel, moved);
      const other = voxel.map((value, k) => value + moved[k]);
      const [tail, head] = pane.side === "source" ? [voxel, other] : [other, voxel];
      drawArrow(context, pane.voxelToScreen(tail), pane.voxelToScreen(head));
    }
  }
}

/** Whether a voxel is tissue; every voxel is until the page has loaded the tissue. */
function onTissue(model, side, voxel) {
  if (!model.tissue) return true;
  const at = side === "source" ? model.correspondence.locate(voxel) : voxel;
  return model.tissue.nearest(...at) > 0.5;
}

function drawArrow(context, [x0, y0], [x1, y1]) {
  const size = Math.hypot(x1 - x0, y1 - y0);
  if (size < 1.5) return;
  const [dx, dy] = [(x1 - x0) / size, (y1 - y0) / size];
  const tip = Math.min(5, 0.6 * size);
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.stroke();
  context.beginPath();
  context.moveTo(x1, y1);
  context.lineTo(x1 - tip * dx - 0.5 * tip * dy, y1 - tip * dy + 0.5 * tip * dx);
  context.lineTo(x1 - tip * dx + 0.5 * tip * dy, y1 - tip * dy - 0.5 * tip * dx);
  context.fill();
}

/** Folded voxels of the slice: white with a black cross, whatever map is below. */
export function drawFolds(pane, folds) {
  const { plane, index, context } = pane;
  const [wide, high] = [Math.max(pane.step[0], 7), Math.max(pane.step[1], 7)];
  const places = pane.keep("folds", "", () => {
    const found = [];
    plane.each(index, (voxel) => folds.voxel(voxel[0], voxel[1], voxel[2]) > 0.5 && found.push([...voxel]));
    return found;
  });
  for (const voxel of places) {
    const [x, y] = pane.voxelToScreen(voxel);
    const [left, top] = [x - wide / 2, y - high / 2];
    context.fillStyle = "white";
    context.fillRect(left, top, wide, high);
    context.strokeStyle = "black";
    context.lineWidth = 1.2;
    context.beginPath();
    context.rect(left, top, wide, high);
    context.moveTo(left, top);
    context.lineTo(left + wide, top + high);
    context.moveTo(left + wide, top);
    context.lineTo(left, top + high);
    context.stroke();
  }
}

/** Outline of where values (row by row) are above a half; values are made when the key changes. */
function drawOutline(pane, name, key, values, color) {
  const segments = pane.keep(name, key, () => contour(values(), pane.plane.width, pane.plane.height, 0.5));
  drawSegments(pane, segments, "rgba(0,0,0,0.6)", 3);
  drawSegments(pane, segments, color, 1.6);
}

/** Mask of the target grid, warped by the inverse field on the source's pane. */
export function drawMask(pane, model) {
  const { plane, index } = pane;
  const values = () => {
    const out = new Float32Array(plane.width * plane.height);
    if (pane.side === "target") return model.mask.slice(plane, index, 0, out);
    const points = locatedPoints(model.correspondence, plane, index);
    for (let pixel = 0, at = 0; pixel < out.length; pixel++, at += 3) {
      out[pixel] = model.mask.linear(points[at], points[at + 1], points[at + 2]);
    }
    return out;
  };
  drawOutline(pane, "mask", "", values, LINES.mask);
}

/** Labels of the source, warped by the field on the target's panes. */
export function drawLabels(pane, model) {
  const numbers = pane.keep("label numbers", "", () => labelNumbers(pane, model));
  for (const number of new Set(numbers)) {
    if (number === 0) continue;
    const values = () => Float32Array.from(numbers, (value) => (value === number ? 1 : 0));
    drawOutline(pane, `label ${number}`, "", values, SERIES[(number - 1) % SERIES.length]);
  }
}

function labelNumbers(pane, model) {
  const { plane, index } = pane;
  const numbers = new Uint16Array(plane.width * plane.height);
  if (pane.side === "source") return model.labels.slice(plane, index, 0, numbers);
  const points = originPoints(model.correspondence, plane, index);
  for (let pixel = 0, at = 0; pixel < numbers.length; pixel++, at += 3) {
    numbers[pixel] = model.labels.nearest(points[at], points[at + 1], points[at + 2]);
  }
  return numbers;
}

/** A region: filled where the slice cuts it, outlined as drawn or as warped. */
export function drawRegion(pane, model, region, planeName) {
  const name = `region ${region.id}`;
  const mask = pane.keep(name, "", () => regionMask(model, region, pane.side, planeName, pane.index));
  const rgb = [1, 3, 5].map((k) => parseInt(region.color.slice(k, k + 2), 16));
  pane.context.globalAlpha = 0.3;
  pane.image(name, `${planeName} ${pane.index}`, (rgba) => {
    mask.forEach((inside, pixel) => inside && rgba.set([...rgb, 255], 4 * pixel));
  }, false);
  pane.context.globalAlpha = 1;
  const points = outlineOf(pane, model, region, planeName);
  if (!points) {
    drawOutline(pane, `${name} outline`, "", () => mask, region.color);
    return;
  }
  stroke(pane.context, region.color, 1.8, (c) => {
    points.forEach(([x, y], k) => (k ? c.lineTo(x, y) : c.moveTo(x, y)));
    c.closePath();
  });
}

function outlineOf(pane, model, region, planeName) {
  if (planeName !== region.planeName) return null;
  if (pane.side === region.side) {
    return pane.index === region.index ? region.polygon.map((point) => pane.toScreen(point)) : null;
  }
  if (model.is3d) return null;
  const outline = pane.keep(`region ${region.id} carried`, "", () => carriedOutline(model, region));
  return outline.map((voxel) => pane.voxelToScreen(voxel));
}

/** A region while it is being drawn. */
export function drawDraft(pane, polygon) {
  stroke(pane.context, "#ffffff", 1.5, (c) => {
    polygon.forEach((point, k) => (k ? c.lineTo(...pane.toScreen(point)) : c.moveTo(...pane.toScreen(point))));
    c.closePath();
  }, [5, 4]);
}
