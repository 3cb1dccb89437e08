// Arrays of the page: base64, inflated by the browser, differences summed up again.

const KINDS = { uint8: Uint8Array, uint16: Uint16Array, int16: Int16Array };

/** Read one array: {values, shape: [C, n0, n1, n2], scale, offset, error}. */
export async function unpack(header) {
  const planes = await inflate(fromBase64(document.getElementById(header.id).textContent));
  const count = header.shape.reduce((product, size) => product * size, 1);
  const values = new KINDS[header.dtype](count);
  if (planes.length !== count * values.BYTES_PER_ELEMENT) {
    throw new Error(`${header.id}: ${planes.length} bytes for ${count} numbers; the file is damaged, write it again`);
  }
  if (values.BYTES_PER_ELEMENT === 1) sumBytes(planes, values);
  else sumPairs(planes, values);
  return { ...header, values };
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

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
