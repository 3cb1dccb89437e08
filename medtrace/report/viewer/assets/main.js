// Start: read the scene, build the controls, show the first case.

import { buildControls, sync } from "./controls.js";
import { buildForm } from "./form.js";
import { listenKeys } from "./keys.js";
import { listen } from "./pointer.js";
import { Viewer } from "./viewer.js";

export async function start() {
  const message = document.getElementById("message");
  try {
    const scene = JSON.parse(document.getElementById("scene").textContent);
    const viewer = new Viewer(scene, document);
    const form = buildForm(viewer);
    buildControls(viewer);
    listen(viewer, (region) => form.add(region));
    listenKeys(viewer);
    viewer.addEventListener("case", () => sync(viewer));
    viewer.addEventListener("drawn", () => sync(viewer));
    const tell = () => (message.textContent = viewer.model.coarse ? "Coarse preview; loading the full resolution …" : "");
    viewer.addEventListener("case", tell);
    viewer.addEventListener("refined", tell);
    window.medtrace = viewer; // for scripts and tests
    await viewer.select(0);
  } catch (error) {
    message.textContent = `The trace could not be shown: ${error.message}`;
    throw error;
  }
}
