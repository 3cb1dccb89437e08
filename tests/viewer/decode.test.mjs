// The page's arrays: base64, inflated, differences summed up again.

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { test } from "node:test";
import { deflateSync } from "node:zlib";

import { fromBase64 } from "../../medtrace/report/viewer/assets/decode.js";

/** What the worker that runs the module answers to a task. */
async function decoded(values, dtype, { bytes } = {}) {
  const differences = values.map((value, k) => value - (k ? values[k - 1] : 0));
  const wide = dtype !== "uint8";
  const packed = bytes ?? [
    ...differences.map((value) => value & 0xff), ...(wide ? differences.map((value) => (value >> 8) & 0xff) : []),
  ];
  const answers = [];
  globalThis.postMessage = (answer) => answers.push(answer);
  const text = deflateSync(Buffer.from(packed)).toString("base64");
  await globalThis.onmessage({ data: { text, header: { id: "image", dtype, shape: [values.length] } } });
  return answers[0];
}

test("base64 becomes bytes", () => {
  assert.deepEqual([...fromBase64("AAEC/w==")], [0, 1, 2, 255]);
});

test("numbers come back, of every kind", async () => {
  for (const [dtype, values] of [["uint8", [0, 3, 255, 1]], ["uint16", [65535, 0, 300, 7]], ["int16", [-32768, 12, -1, 32767]]]) {
    const { values: received } = await decoded(values, dtype);
    assert.deepEqual([...received], values);
  }
});

test("a damaged array is named", async () => {
  const { error } = await decoded([1, 2, 3], "uint8", { bytes: [1] });
  assert.match(error, /^image: not 3 numbers; the file is damaged, write the report again$/);
});
