// 4x4 matrices, row by row, and points of three numbers.

export function apply(matrix, point, out = [0, 0, 0]) {
  const [x, y, z] = point;
  for (let row = 0; row < 3; row++) {
    const k = 4 * row;
    out[row] = matrix[k] * x + matrix[k + 1] * y + matrix[k + 2] * z + matrix[k + 3];
  }
  return out;
}

/** Length of a direction mapped by a matrix, without its translation. */
export function turnedLength(m, [x, y, z]) {
  const a = m[0] * x + m[1] * y + m[2] * z, b = m[4] * x + m[5] * y + m[6] * z, c = m[8] * x + m[9] * y + m[10] * z;
  return Math.sqrt(a * a + b * b + c * c);
}

export function multiply(a, b) {
  const out = Array.from({ length: 16 }, () => 0);
  for (let i = 0; i < 4; i++) {
    for (let j = 0; j < 4; j++) {
      for (let k = 0; k < 4; k++) out[4 * i + j] += a[4 * i + k] * b[4 * k + j];
    }
  }
  return out;
}

/** Inverse of an affine matrix (last row 0 0 0 1). */
export function invert(m) {
  const [a, b, c, , d, e, f, , g, h, i] = m;
  const A = e * i - f * h, B = f * g - d * i, C = d * h - e * g;
  const det = a * A + b * B + c * C;
  const rows = [
    [A, c * h - b * i, b * f - c * e],
    [B, a * i - c * g, c * d - a * f],
    [C, b * g - a * h, a * e - b * d],
  ].map((row) => row.map((value) => value / det));
  const shift = [m[3], m[7], m[11]];
  return [
    ...rows.flatMap((row) => [...row, -row.reduce((sum, value, k) => sum + value * shift[k], 0)]),
    0, 0, 0, 1,
  ];
}

/** Determinant of three columns. */
export function determinant([a, b, c]) {
  return a[0] * (b[1] * c[2] - b[2] * c[1]) - b[0] * (a[1] * c[2] - a[2] * c[1]) + c[0] * (a[1] * b[2] - a[2] * b[1]);
}

export function length(vector) {
  return Math.hypot(...vector);
}

export function difference(a, b) {
  return [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
}
