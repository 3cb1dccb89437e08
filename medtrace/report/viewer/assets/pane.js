// One picture on the screen: a slice, scaled, and what is drawn over it.

export class Pane {
  /**
   * element: a figure with a canvas; side: source or target; shared: {bitmaps, kept}, Maps of what the panes of one
   * side, which show one slice, have made.
   */
  constructor(element, name, side, shared) {
    this.element = element;
    this.canvas = element.querySelector("canvas");
    this.context = this.canvas.getContext("2d");
    this.slider = element.querySelector(".slices");
    this.label = element.querySelector(".slice-number");
    this.name = name;
    this.side = side;
    Object.assign(this, shared);
  }

  /** What `make` gives, made again only when the key, the plane or the slice changes. */
  keep(name, key, make) {
    const full = `${this.plane.normal} ${this.index} ${key}`;
    if (this.kept.get(name)?.full !== full) this.kept.set(name, { full, value: make() });
    return this.kept.get(name).value;
  }

  /** Fit the plane into the canvas; `center` is a page point that stays in the middle when zoomed in. */
  layout(plane, index, zoom, center) {
    const ratio = window.devicePixelRatio || 1;
    const width = this.canvas.clientWidth, height = this.canvas.clientHeight;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
    }
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const wide = plane.width * plane.pixelWidth, high = plane.height * plane.pixelHeight;
    const scale = Math.min(width / wide, height / high) * zoom;
    this.plane = plane;
    this.index = index;
    this.size = [width, height];
    this.step = [plane.pixelWidth * scale, plane.pixelHeight * scale];
    this.shift = [
      placeShift(width, plane.width * this.step[0], (center[0] + 0.5) * this.step[0]),
      placeShift(height, plane.height * this.step[1], (center[1] + 0.5) * this.step[1]),
    ];
  }

  /** Screen place (CSS pixels within the canvas) of a page point. */
  toScreen([u, v]) {
    return [this.shift[0] + (u + 0.5) * this.step[0], this.shift[1] + (v + 0.5) * this.step[1]];
  }

  voxelToScreen(voxel) {
    return this.toScreen(this.plane.toPage(voxel));
  }

  toPage(x, y) {
    return [(x - this.shift[0]) / this.step[0] - 0.5, (y - this.shift[1]) / this.step[1] - 0.5];
  }

  /** Voxel under an event, or null outside the grid. */
  voxelAt(event) {
    const [u, v] = this.pageAt(event);
    if (u < -0.5 || v < -0.5 || u > this.plane.width - 0.5 || v > this.plane.height - 0.5) return null;
    return this.plane.toVoxel(u, v, this.index);
  }

  pageAt(event) {
    const box = this.canvas.getBoundingClientRect();
    return this.toPage(event.clientX - box.left, event.clientY - box.top);
  }

  clear() {
    this.context.clearRect(0, 0, ...this.size);
  }

  /** Draw a slice whose pixels `paint(rgba)` makes; made again only when the key changes. */
  image(layer, key, paint, smooth) {
    let bitmap = this.bitmaps.get(layer);
    if (!bitmap || bitmap.key !== key) {
      bitmap = this.bitmapLike(bitmap);
      paint(bitmap.pixels.data);
      bitmap.canvas.getContext("2d").putImageData(bitmap.pixels, 0, 0);
      bitmap.key = key;
      this.bitmaps.set(layer, bitmap);
    }
    const { context } = this;
    context.imageSmoothingEnabled = smooth;
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap.canvas, ...this.shift, this.plane.width * this.step[0], this.plane.height * this.step[1]);
  }

  /** Room for a slice's pixels: an earlier one's, emptied, where it has the size. */
  bitmapLike(earlier) {
    const { width, height } = this.plane;
    if (earlier && earlier.pixels.width === width && earlier.pixels.height === height) {
      earlier.pixels.data.fill(0);
      return earlier;
    }
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    return { canvas, pixels: new ImageData(width, height) };
  }

  /** Forget the slices of another case. */
  forget() {
    this.bitmaps.clear();
    this.kept.clear();
  }
}

/** In the middle when it fits, else so that the center is in the middle and no edge is left bare. */
function placeShift(room, size, center) {
  if (size <= room) return (room - size) / 2;
  return Math.min(0, Math.max(room - size, room / 2 - center));
}
