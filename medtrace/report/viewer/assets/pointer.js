// Mouse, pen and finger on the panes.

import { makeRegion } from "./regions.js";

const CLICK_PIXELS = 5;

export function listen(viewer, onRegion) {
  for (const pane of Object.values(viewer.panes)) new Pointer(viewer, pane, onRegion).attach();
}

class Pointer {
  constructor(viewer, pane, onRegion) {
    Object.assign(this, { viewer, pane, onRegion, start: null });
  }

  attach() {
    const { canvas, slider } = this.pane;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", () => this.cancel());
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    slider.addEventListener("input", () => toSlice(this.viewer, this.pane, Number(slider.value)));
  }

  get drawing() {
    return this.viewer.state.tool !== "point";
  }

  down(event) {
    if (!this.viewer.model || event.button > 0) return;
    this.pane.canvas.setPointerCapture(event.pointerId);
    this.start = { x: event.clientX, y: event.clientY, page: this.pane.pageAt(event), swiping: this.onSwipe(event) };
    if (this.start.swiping || !this.drawing) return;
    this.viewer.set({ draft: { pane: this.pane, polygon: [this.start.page] } });
  }

  move(event) {
    const { viewer, pane } = this;
    if (!viewer.model) return;
    if (this.start?.swiping) {
      const box = pane.canvas.getBoundingClientRect();
      viewer.set({ swipe: Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) });
    } else if (this.start && event.shiftKey && viewer.state.anchor) {
      this.pan(event);
    } else if (this.start && this.drawing) {
      this.extend(event);
    } else if (!viewer.state.pinned || this.start) {
      const voxel = pane.voxelAt(event);
      if (voxel) viewer.point(pane.side, voxel);
    }
  }

  up(event) {
    const { viewer, start } = this;
    this.start = null;
    if (!start || start.swiping) return;
    if (this.drawing) {
      this.finish();
      return;
    }
    if (Math.hypot(event.clientX - start.x, event.clientY - start.y) > CLICK_PIXELS) return;
    const voxel = this.pane.voxelAt(event);
    if (voxel) {
      viewer.point(this.pane.side, voxel);
      viewer.set({ pinned: true });
    }
  }

  cancel() {
    this.start = null;
    this.viewer.set({ draft: null });
  }

  onSwipe(event) {
    if (this.viewer.state.compare !== "swipe" || this.pane.name !== "image") return false;
    const box = this.pane.canvas.getBoundingClientRect();
    return Math.abs(event.clientX - box.left - this.viewer.state.swipe * box.width) < 16;
  }

  pan(event) {
    const { pane, viewer } = this;
    const [u, v] = pane.pageAt(event);
    const moved = pane.plane.toVoxel(this.start.page[0] - u, this.start.page[1] - v, 0);
    const zero = pane.plane.toVoxel(0, 0, 0);
    const anchor = viewer.state.anchor[pane.side].map((value, k) => value + moved[k] - zero[k]);
    const { source, target } = viewer.model.pair(pane.side, anchor);
    viewer.set({ anchor: { source, target } });
  }

  extend(event) {
    const { viewer, pane, start } = this;
    const [u, v] = pane.pageAt(event);
    const [u0, v0] = start.page;
    const polygon = viewer.state.tool === "box"
      ? [[u0, v0], [u, v0], [u, v], [u0, v]]
      : [...viewer.state.draft.polygon, [u, v]];
    viewer.set({ draft: { pane, polygon } });
  }

  finish() {
    const { viewer, pane } = this;
    const { draft, planeName, depth } = viewer.state;
    viewer.set({ draft: null });
    if (!draft || draft.polygon.length < 3) return;
    const polygon = draft.polygon.map(([u, v]) => [
      Math.min(pane.plane.width - 0.5, Math.max(-0.5, u)), Math.min(pane.plane.height - 0.5, Math.max(-0.5, v)),
    ]);
    this.onRegion(makeRegion(pane.side, planeName, pane.index, polygon, viewer.model.is3d ? depth : 1));
  }

  wheel(event) {
    const { viewer, pane } = this;
    if (!viewer.model) return;
    event.preventDefault();
    if (event.ctrlKey || !viewer.model.is3d) viewer.zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15);
    else stepSlice(viewer, pane, event.deltaY < 0 ? 1 : -1);
  }
}

/** Move the crosshair through the slices of a pane. */
export function stepSlice(viewer, pane, step) {
  toSlice(viewer, pane, viewer.sliceOf(pane.side) + step);
}

function toSlice(viewer, pane, index) {
  const plane = viewer.model.planes[viewer.state.planeName][pane.side];
  const voxel = [...viewer.state.point[pane.side]];
  voxel[plane.normal] = Math.min(plane.slices - 1, Math.max(0, index));
  viewer.point(pane.side, voxel);
}
