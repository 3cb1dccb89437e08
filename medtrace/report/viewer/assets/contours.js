// Lines of equal value on a slice (marching squares).

/** Segments [u0, v0, u1, v1, ...] where values (row by row, width a row) cross a level. */
export function contour(values, width, height, level, segments = []) {
  for (let v = 0; v + 1 < height; v++) {
    for (let u = 0; u + 1 < width; u++) {
      const at = v * width + u;
      const a = values[at] - level, b = values[at + 1] - level;
      const c = values[at + width] - level, d = values[at + width + 1] - level;
      if (a > 0 === b > 0 && a > 0 === c > 0 && a > 0 === d > 0) continue;
      cross(a, b, c, d, u, v, segments);
    }
  }
  return segments;
}

function cross(a, b, c, d, u, v, segments) {
  const points = [];
  if (a > 0 !== b > 0) points.push([u + a / (a - b), v]);
  if (b > 0 !== d > 0) points.push([u + 1, v + b / (b - d)]);
  if (c > 0 !== d > 0) points.push([u + c / (c - d), v + 1]);
  if (a > 0 !== c > 0) points.push([u, v + a / (a - c)]);
  for (let k = 0; k + 1 < points.length; k += 2) segments.push(...points[k], ...points[k + 1]);
}
