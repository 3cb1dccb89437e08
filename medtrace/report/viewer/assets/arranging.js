// Panes in rows and columns, so that their images are as large as possible.

const CHROME = 34;
const SLIDER = 24;
const NARROW = 560;

/** Columns in which `count` images of aspect `ratio` (width over height) are largest in a box of a given size. */
export function columnsFor(count, ratio, width, height, chrome) {
  let best = 1, largest = -1;
  for (let columns = 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns);
    const size = Math.min(width / columns / ratio, height / rows - chrome);
    if (size > largest + 1e-6) [best, largest] = [columns, size];
  }
  return best;
}

/** Show the chosen panes, and hide the others. */
export function arrange(viewer, shown) {
  const place = shown[0].element.parentElement;
  for (const pane of Object.values(viewer.panes)) pane.element.hidden = !shown.includes(pane);
  const { model } = viewer;
  const three = shown.length > 1 && Boolean(shown[0].planeName);
  const { box, pixelWidth, pixelHeight } = model.planes[viewer.planeNameOf(shown[0])].target;
  const ratio = ((box.right - box.left + 1) * pixelWidth) / ((box.bottom - box.top + 1) * pixelHeight);
  const chrome = CHROME + (model.hasSlices ? SLIDER : 0);
  const narrow = innerWidth <= NARROW;
  const columns = narrow ? 1 : three ? 3 : columnsFor(shown.length, ratio, place.clientWidth, place.clientHeight, chrome);
  place.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
  const left = shown.length % columns;
  shown.forEach((pane, k) => {
    pane.element.style.gridColumn = k === shown.length - 1 && left ? `span ${columns - left + 1}` : "";
  });
  place.style.gridTemplateRows = narrow ? "" : `repeat(${Math.ceil(shown.length / columns)}, minmax(0, 1fr))`;
}
