// A plane of a grid on the page: array axes, flips, slices, and millimeters.

export class Plane {
  /** grid: {shape, affine, planes}; name: axial, coronal or sagittal. */
  constructor(grid, name) {
    Object.assign(this, grid.planes[name]);
    this.gridShape = grid.shape;
    this.width = grid.shape[this.horizontal];
    this.height = grid.shape[this.vertical];
    this.slices = grid.shape[this.normal];
    const spacing = (axis) => Math.hypot(grid.affine[axis], grid.affine[4 + axis], grid.affine[8 + axis]);
    this.pixelWidth = spacing(this.horizontal);
    this.pixelHeight = spacing(this.vertical);
    this.sliceThickness = spacing(this.normal);
    this.box = this.boxOf(grid.box ?? grid.shape.map((size) => [0, size - 1]));
    this.pixelArea = crossLength(column(grid.affine, this.horizontal), column(grid.affine, this.vertical));
  }

  /** Whether it has one row or column of pixels. */
  get isLine() {
    return Math.min(this.width, this.height) === 1;
  }

  /** The pixels that are shown first, from the first and the last voxel along every axis. */
  boxOf(box) {
    const [low, high] = [0, 1].map((end) => this.toPage(box.map((range) => range[end])));
    return {
      left: Math.min(low[0], high[0]), right: Math.max(low[0], high[0]),
      top: Math.min(low[1], high[1]), bottom: Math.max(low[1], high[1]),
    };
  }

  /** Pixel (across, down) of a voxel; whole numbers are pixel centers. */
  toPage(voxel) {
    const u = voxel[this.horizontal], v = voxel[this.vertical];
    return [this.flipHorizontal ? this.width - 1 - u : u, this.flipVertical ? this.height - 1 - v : v];
  }

  /** Voxel of a pixel in a slice. */
  toVoxel(u, v, index) {
    const voxel = [0, 0, 0];
    voxel[this.horizontal] = this.flipHorizontal ? this.width - 1 - u : u;
    voxel[this.vertical] = this.flipVertical ? this.height - 1 - v : v;
    voxel[this.normal] = index;
    return voxel;
  }

  slice(voxel) {
    return Math.min(this.slices - 1, Math.max(0, Math.round(voxel[this.normal])));
  }

  /** Call visit(voxel, pixel number) for every pixel of a slice; the voxel array is reused. */
  each(index, visit) {
    const voxel = [0, 0, 0];
    voxel[this.normal] = index;
    for (let v = 0, pixel = 0; v < this.height; v++) {
      voxel[this.vertical] = this.flipVertical ? this.height - 1 - v : v;
      for (let u = 0; u < this.width; u++, pixel++) {
        voxel[this.horizontal] = this.flipHorizontal ? this.width - 1 - u : u;
        visit(voxel, pixel);
      }
    }
  }
}

function column(matrix, axis) {
  return [matrix[axis], matrix[4 + axis], matrix[8 + axis]];
}

function crossLength(a, b) {
  return Math.hypot(a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]);
}
