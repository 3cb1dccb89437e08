// One case in memory: its images and fields, and corresponding points.

import { Correspondence } from "./correspondence.js";
import { unpack } from "./decode.js";
import { Field, Volume } from "./grid.js";
import { Plane } from "./plane.js";

const FIRST = ["source", "image", "ddf", "inverse"];
const preview = (name) => `${name}_preview`;

export class Model {
  constructor(description) {
    this.description = description;
    this.grids = { source: description.source, target: description.target };
    this.planes = {};
    for (const name of Object.keys(description.target.planes)) {
      this.planes[name] = { source: new Plane(this.grids.source, name), target: new Plane(this.grids.target, name) };
    }
    const lines = Object.keys(this.planes).filter((name) => Object.values(this.planes[name]).every((plane) => plane.isLine));
    if (lines.length < Object.keys(this.planes).length) for (const name of lines) delete this.planes[name];
  }

  /** Whether there are slices to step through: a volume of one slice is shown as an image is. */
  get hasSlices() {
    return this.is3d && Object.keys(this.planes).length > 1;
  }

  get is3d() {
    return this.description.spatialDims === 3;
  }

  get channels() {
    return Math.max(this.grids.source.channels, this.grids.target.channels);
  }

  /** Whether the mask, once it is read, is not empty. */
  get marksLesion() {
    if (!this.mask) return false;
    this.filled ??= this.mask.values.some((value) => value > 0);
    return this.filled;
  }

  /** What the images of the two sides are called. */
  get names() {
    if (this.description.registration) return { source: "moving image", target: "registered image" };
    return { source: "source", target: "translation" };
  }

  has(name) {
    return name in this.description.arrays;
  }

  /** Read what the first drawing needs; for large grids a coarse preview, which `openRest` replaces. */
  async open() {
    const { arrays } = this.description;
    this.coarse = FIRST.some((name) => preview(name) in arrays);
    await this.readFirst((name) => arrays[preview(name)] ?? arrays[name]);
    return this;
  }

  async readFirst(header) {
    const [source, image, ddf, inverse] = await Promise.all(FIRST.map((name) => unpack(header(name))));
    this.source = new Volume(source);
    this.image = new Volume(image);
    this.correspondence = new Correspondence(
      new Field(ddf, this.grids.target.shape), new Field(inverse, this.grids.source.shape), null,
      this.grids.target.affine, this.grids.source.affine,
    );
  }

  /** Read the rest, one array at a time; reports after each. */
  async openRest(changed) {
    const { arrays } = this.description;
    if (this.coarse) {
      await this.readFirst((name) => arrays[name]);
      this.coarse = false;
      changed("first");
    }
    const read = [...FIRST, ...FIRST.map(preview)];
    for (const name of Object.keys(arrays)) {
      if (read.includes(name)) continue;
      const array = await unpack(arrays[name]);
      if (name === "velocity") this.correspondence.setVelocity(new Field(array, this.grids.target.shape));
      else this[name] = new Volume(array);
      changed(name);
    }
  }

  /** The pair of points that a point of one side (its grid's voxel) belongs to. */
  pair(side, voxel) {
    const c = this.correspondence;
    if (side === "source") return { side, source: [...voxel], target: c.locate(voxel) };
    return { side, source: c.origin(voxel), target: [...voxel] };
  }

  /** Why a path is straight, or that it is not. */
  pathKind() {
    if (this.correspondence.velocity) return "integrated velocity, exp(t·v)";
    if (!this.has("velocity")) return "straight line (the trace has no velocity)";
    if (!this.correspondence.misses) return "straight line (the velocity is being loaded)";
    return `straight line (the flow of the stored velocity differs from the field by ${this.correspondence.misses.toFixed(1)} voxels)`;
  }
}
