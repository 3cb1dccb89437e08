// One image on the screen: a slice, scaled, and what is drawn over it.

export class Pane {
  /**
   * element: a figure with a canvas; side: source or target; shared: {bitmaps, kept}, Maps of what the panes of one
   * side, which show one slice, have made; planeName: the plane it always shows, or null for the chosen one.
   */
  constructor(element, name, side, shared, planeName = null) {
    this.planeName = planeName;
    this.element = element;
    this.canvas = element.querySelector("canvas");
    this.context = this.canvas.getContext("2d");
    this.slider = element.querySelector(".slices");
    this.label = element.querySelector(".slice-number");
    this.name = name;
    this.key = planeName ? `${name} ${planeName}` : name;
    this.side = side;
    Object.assign(this, shared);
  }

  /** The result of `make`, computed again only when the key, the plane or the slice changes. */
  keep(name, key, make) {
    const full = `${this.plane.normal} ${this.index} ${key}`;
    if (this.kept.get(name)?.full !== full) this.kept.set(name, { full, value: make() });
    return this.kept.get(name).value;
  }

  /** Fit the plane's box into the canvas; `center` is a page point for the middle, or null for the box's. */
  layout(plane, index, zoom, center) {
    const ratio = window.devicePixelRatio || 1;
    const width = this.canvas.clientWidth, height = this.canvas.clientHeight;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
    }
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const { box } = plane;
    const wide = (box.right - box.left + 1) * plane.pixelWidth, high = (box.bottom - box.top + 1) * plane.pixelHeight;
    const scale = Math.max(1e-6, Math.min(width / wide, height / high)) * zoom;
    const middle = center ?? [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
    this.plane = plane;
    this.index = index;
    this.size = [width, height];
    this.step = [plane.pixelWidth * scale, plane.pixelHeight * scale];
    this.center = middle;
    this.shift = [
      placeShift(width, plane.width * this.step[0], (middle[0] + 0.5) * this.step[0]),
      placeShift(height, plane.height * this.step[1], (middle[1] + 0.5) * this.step[1]),
    ];
  }

  /** Screen position (CSS pixels within the canvas) of a page point. */
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

  /** Black, not transparent: paper would show through. */
  clear() {
    this.context.fillStyle = "#000";
    this.context.fillRect(0, 0, ...this.size);
  }

  /** Draw a slice whose pixels `paint(rgba)` fills in; painted again only when the key changes. */
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

  /** A buffer for a slice's pixels: an earlier one, cleared, if it has the right size. */
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

/** Keeps the center in the middle, with the entire image visible if it fits, and no bare margin if it does not. */
function placeShift(room, size, center) {
  const spare = room - size;
  return Math.min(Math.max(0, spare), Math.max(Math.min(0, spare), room / 2 - center));
}
