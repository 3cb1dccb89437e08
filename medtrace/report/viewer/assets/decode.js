// Arrays of the page: base64, inflated by the browser, their differences summed; a worker for each.

const KINDS = { uint8: Uint8Array, uint16: Uint16Array, int16: Int16Array };

/** Read one array: {values, shape: [C, n0, n1, n2], scale, offset, error}. */
export async function unpack(header) {
  const text = document.getElementById(header.id).textContent;
  const values = await inWorker({ text, header }).catch(() => decoded({ text, header })); // some browsers allow no worker
  return { ...header, values };
}

/** Decode in a separate worker, which runs this same module: arrays in parallel, and the page stays responsive. */
function inWorker(task) {
  return new Promise((done, failed) => {
    const { imports } = JSON.parse(document.querySelector("script[type=importmap]").textContent);
    const worker = new Worker(imports["viewer/decode"], { type: "module" });
    const end = (settle) => (event) => {
      worker.terminate();
      settle(event.data);
    };
    worker.onmessage = end((answer) => (answer.values ? done(answer.values) : failed(new Error(answer.error))));
    worker.onerror = end(failed);
    worker.postMessage(task);
  });
}

if (typeof document === "undefined") { // in a worker
  globalThis.onmessage = async ({ data }) => {
    try {
      const values = await decoded(data);
      globalThis.postMessage({ values }, [values.buffer]);
    } catch (error) {
      globalThis.postMessage({ error: error.message });
    }
  };
}

async function decoded({ text, header }) {
  const count = header.shape.reduce((product, size) => product * size, 1);
  const values = new KINDS[header.dtype](count);
  const planes = await inflated(fromBase64(text), count * values.BYTES_PER_ELEMENT);
  if (!planes) throw new Error(`${header.id}: not ${count} numbers; the file is damaged, write the report again`);
  if (values.BYTES_PER_ELEMENT === 1) sumBytes(planes, values);
  else sumPairs(planes, values);
  return values;
}

/** The bytes of a deflated stream, null if there are not `size` of them. */
async function inflated(bytes, size) {
  const stream = new DecompressionStream("deflate");
  const writer = stream.writable.getWriter();
  writer.write(bytes).catch(() => {}); // the reader gets the error as well
  writer.close().catch(() => {});
  const reader = stream.readable.getReader();
  const out = new Uint8Array(size);
  for (let at = 0; ; ) {
    const { done, value } = await reader.read();
    if (done) return at === size ? out : null;
    if (at + value.length > size) return null;
    out.set(value, at);
    at += value.length;
  }
}

function sumBytes(planes, values) {
  let sum = 0;
  for (let i = 0; i < values.length; i++) {
    sum = (sum + planes[i]) & 0xff;
    values[i] = sum;
  }
}

function sumPairs(planes, values) {
  const count = values.length;
  let sum = 0;
  for (let i = 0; i < count; i++) {
    sum = (sum + (planes[i] | (planes[count + i] << 8))) & 0xffff;
    values[i] = sum;
  }
}

export function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}
