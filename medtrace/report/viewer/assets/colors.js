// Numbers to colors.

import { fromBase64 } from "./decode.js";

/** Colors that color-blind readers can distinguish (Okabe and Ito). */
export const SERIES = ["#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#0072B2", "#D55E00"];
export const LINES = { cross: "#F0E442", path: "#E69F00", grid: "#F0B429", arrow: "#56B4E9", mask: "#D55E00", ruler: "#ffffff" };

export class ColorMap {
  constructor(text) {
    this.table = fromBase64(text);
  }

  /** Write the color of a value in [0, 1] to rgba at a pixel, blended with what is there. */
  mix(place, opacity, rgba, pixel) {
    const entry = 3 * Math.max(0, Math.min(255, Math.round(place * 255)));
    for (let part = 0; part < 3; part++) {
      const at = 4 * pixel + part;
      rgba[at] = (1 - opacity) * rgba[at] + opacity * this.table[entry + part];
    }
  }

  css() {
    const stops = [];
    for (let entry = 0; entry < 256; entry += 15) {
      stops.push(`rgb(${this.table[3 * entry]},${this.table[3 * entry + 1]},${this.table[3 * entry + 2]})`);
    }
    return `linear-gradient(to right, ${stops.join(", ")})`;
  }
}

/** Intensities (channel after channel) as gray, three channels as color, between black and white of the window. */
export function shade(slice, channels, [low, high], rgba) {
  const count = slice.length / channels;
  const gain = 255 / (high - low || 1);
  const color = channels === 3;
  for (let pixel = 0; pixel < count; pixel++) {
    for (let part = 0; part < 3; part++) {
      rgba[4 * pixel + part] = (slice[color ? part * count + pixel : pixel] - low) * gain;
    }
    rgba[4 * pixel + 3] = 255;
  }
}
