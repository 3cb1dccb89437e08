// Mouse, pen and finger on the panes.

import { makeRegion } from "./regions.js";

const CLICK_PIXELS = 5;

export function listen(viewer, onRegion) {
  for (const pane of Object.values(viewer.panes)) new Pointer(viewer, pane, onRegion).attach();
}

class Pointer {
  constructor(viewer, pane, onRegion) {
    Object.assign(this, { viewer, pane, onRegion, start: null, touches: new Map(), pinch: null });
  }

  attach() {
    const { canvas, slider } = this.pane;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", (event) => this.cancel(event));
    canvas.addEventListener("dblclick", () => this.alone());
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    slider.addEventListener("input", () => toSlice(this.viewer, this.pane, Number(slider.value)));
  }

  get drawing() {
    return ["box", "freehand"].includes(this.viewer.state.tool);
  }

  /** Show this pane alone, or all again. */
  alone() {
    const { viewer, pane } = this;
    viewer.set({ alone: viewer.state.alone === pane.key ? null : pane.key });
  }

  down(event) {
    const { viewer, pane } = this;
    if (!viewer.model || event.button > 0) return;
    pane.canvas.setPointerCapture(event.pointerId);
    this.touches.set(event.pointerId, event);
    if (this.touches.size === 2) {
      this.startPinch();
      return;
    }
    const [x, y] = [event.clientX, event.clientY];
    this.start = { x, y, page: pane.pageAt(event), center: pane.center, slice: pane.index, moved: false, swiping: this.onSwipe(event) };
    if (this.start.swiping) return;
    if (this.drawing) viewer.set({ draft: { pane, polygon: [this.start.page] } });
    if (viewer.state.tool === "ruler") this.measure(event);
  }

  move(event) {
    const { viewer, pane, start } = this;
    if (!viewer.model) return;
    if (this.touches.has(event.pointerId)) this.touches.set(event.pointerId, event);
    if (this.pinch) {
      this.pinched();
      return;
    }
    if (start && Math.hypot(event.clientX - start.x, event.clientY - start.y) > CLICK_PIXELS) start.moved = true;
    if (start?.swiping) {
      const box = pane.canvas.getBoundingClientRect();
      viewer.set({ swipe: Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) });
    } else if (start && this.drawing) this.extend(event);
    else if (start && viewer.state.tool === "ruler") this.measure(event);
    else if (start && (event.shiftKey || viewer.state.zoom > 1)) this.pan(event);
    else if (start && event.pointerType === "touch" && viewer.model.hasSlices) this.leaf(event);
    else if (!viewer.state.pinned || start) {
      const voxel = pane.voxelAt(event);
      if (voxel) viewer.point(pane.side, voxel);
    }
  }

  up(event) {
    const { viewer, start } = this;
    this.touches.delete(event.pointerId);
    if (this.pinch) {
      if (!this.touches.size) this.pinch = null;
      return;
    }
    this.start = null;
    if (!start || start.swiping || viewer.state.tool === "ruler") return;
    if (this.drawing) {
      this.finish();
      return;
    }
    if (start.moved) return;
    const voxel = this.pane.voxelAt(event);
    if (voxel) {
      viewer.point(this.pane.side, voxel);
      viewer.set({ pinned: true });
    }
  }

  cancel(event) {
    this.touches.delete(event.pointerId);
    this.start = this.pinch = null;
    this.viewer.set({ draft: null });
  }

  onSwipe(event) {
    if (this.viewer.state.compare !== "swipe" || this.pane.name !== "image") return false;
    const box = this.pane.canvas.getBoundingClientRect();
    return Math.abs(event.clientX - box.left - this.viewer.state.swipe * box.width) < 16;
  }

  /** Two fingers: their distance zooms, their midpoint pans. */
  startPinch() {
    this.start = null;
    this.viewer.set({ draft: null });
    const { middle, apart } = this.fingers();
    this.pinch = { apart, zoom: this.viewer.state.zoom, page: this.pane.pageAt(middle) };
  }

  fingers() {
    const [a, b] = [...this.touches.values()];
    return {
      middle: { clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2 },
      apart: Math.max(1, Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY)),
    };
  }

  pinched() {
    if (this.touches.size < 2) return;
    const { viewer, pane, pinch } = this;
    const { middle, apart } = this.fingers();
    viewer.zoomAt(pane, pinch.page, (pinch.zoom * apart) / pinch.apart / viewer.state.zoom);
    const now = pane.pageAt(middle);
    if (viewer.state.zoom > 1) viewer.centerOn(pane, pane.center.map((value, k) => value + pinch.page[k] - now[k]));
  }

  pan(event) {
    const { pane, viewer, start } = this;
    const moved = [event.clientX - start.x, event.clientY - start.y];
    viewer.centerOn(pane, start.center.map((value, k) => value - moved[k] / pane.step[k]));
  }

  /** A finger that moves up or down steps through the slices of a volume. */
  leaf(event) {
    const { pane, viewer, start } = this;
    const perSlice = Math.max(3, pane.size[1] / pane.plane.slices);
    toSlice(viewer, pane, start.slice - Math.round((event.clientY - start.y) / perSlice));
  }

  /** From where the button was pressed to the pointer. */
  measure(event) {
    const { pane, viewer, start } = this;
    const ends = [start.page, pane.pageAt(event)].map(([u, v]) => pane.plane.toVoxel(u, v, pane.index));
    viewer.set({ ruler: { side: pane.side, planeName: viewer.planeNameOf(pane), index: pane.index, ends } });
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
    const { draft, depth } = viewer.state;
    const planeName = viewer.planeNameOf(pane);
    viewer.set({ draft: null });
    if (!draft || draft.polygon.length < 3) return;
    const polygon = draft.polygon.map(([u, v]) => [
      Math.min(pane.plane.width - 0.5, Math.max(-0.5, u)), Math.min(pane.plane.height - 0.5, Math.max(-0.5, v)),
    ]);
    this.onRegion(makeRegion(pane.side, planeName, pane.index, polygon, viewer.model.hasSlices ? depth : 1));
  }

  wheel(event) {
    const { viewer, pane } = this;
    if (!viewer.model) return;
    event.preventDefault();
    if (event.ctrlKey || !viewer.model.hasSlices) viewer.zoomAt(pane, pane.pageAt(event), event.deltaY < 0 ? 1.15 : 1 / 1.15);
    else stepSlice(viewer, pane, event.deltaY < 0 ? 1 : -1);
  }
}

/** Move the crosshair through the slices of a pane. */
export function stepSlice(viewer, pane, step) {
  toSlice(viewer, pane, viewer.sliceOf(pane.side, viewer.planeNameOf(pane)) + step);
}

function toSlice(viewer, pane, index) {
  const plane = viewer.model.planes[viewer.planeNameOf(pane)][pane.side];
  const voxel = [...viewer.state.point[pane.side]];
  voxel[plane.normal] = Math.min(plane.slices - 1, Math.max(0, index));
  viewer.point(pane.side, voxel);
}
