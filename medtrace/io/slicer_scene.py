"""A trace as a scene of 3D Slicer: volumes and transforms, a .mrml that names them, and a script that loads them."""

from __future__ import annotations

import textwrap
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from medtrace.io.nifti import write_image
from medtrace.io.slicer_nrrd import write_slicer_nrrd
from medtrace.io.trace_members import IMAGES, ON_SOURCE_GRID
from medtrace.storage.directories import atomic_directory
from medtrace.storage.files import atomic_write
from medtrace.trace import Trace

SCENE, SCRIPT = "trace.mrml", "load_trace.py"


def write_slicer_scene(trace: Trace, folder: Path | str) -> Path:
    """Write a folder that 3D Slicer opens as a scene.

    It holds the images as `.nii.gz` (several channels one by one), the transform that moves the source onto the image
    twice, as `ddf.nrrd` (resampling) and `inverse_ddf.nrrd` (modeling, see `write_slicer_nrrd`), `trace.mrml` with
    relative paths, and `load_trace.py`, which builds the scene from the files alone:
    `Slicer --python-script load_trace.py`. In the scene, "source moved" is the source volume under the transform
    "source to target", aligned with the image; markups put under that transform move as in `trace.locate`.

    Args:
        trace: what to show.
        folder: a new or empty folder; it appears complete or not at all.

    Returns:
        The scene file.

    Raises:
        FileExistsError: if the folder is in use.
        FileNotFoundError: if its parent does not exist.
        ValueError: if an affine is sheared.
    """
    folder = Path(folder)
    with atomic_directory(folder) as temporary:
        volumes = _write_volumes(trace, temporary)
        write_slicer_nrrd(temporary / "ddf.nrrd", trace.ddf, trace.affine, "resampling")
        write_slicer_nrrd(temporary / "inverse_ddf.nrrd", trace.inverse_ddf, trace.source_affine, "modeling")
        scene = _scene(volumes, "source" if "source" in volumes else "source_0")
        ElementTree.indent(scene)
        atomic_write(temporary / SCENE, ElementTree.tostring(scene, "UTF-8", xml_declaration=True))
        atomic_write(temporary / SCRIPT, _SCRIPT)
    return folder / SCENE


def _write_volumes(trace: Trace, folder: Path) -> dict[str, str]:
    """Names and files of the volumes."""
    files = {}
    for name in IMAGES:
        value = getattr(trace, name)
        if value is None:
            continue
        affine = trace.source_affine if name in ON_SOURCE_GRID else trace.affine
        for channel in range(value.shape[0]):
            label = name if value.shape[0] == 1 else f"{name}_{channel}"
            files[label] = f"{label}.nii.gz"
            write_image(folder / files[label], value[channel : channel + 1], affine)
    return files


def _scene(volumes: dict[str, str], source: str) -> ElementTree.Element:
    """The scene's nodes: storage by relative path, volumes, the two transforms, and the moved source."""
    root = ElementTree.Element("MRML", version="Slicer5.0.0", userTags="")
    number = {"Volume": 0, "Transform": 0}  # of the nodes so far

    def transform(name: str, file: str) -> str:
        number["Transform"] += 1
        own, storage = (f"vtkMRML{kind}Node{number['Transform']}" for kind in ("Transform", "TransformStorage"))
        ElementTree.SubElement(root, "TransformStorage", id=storage, name=f"{name} storage", fileName=file)
        ElementTree.SubElement(root, "Transform", id=own, name=name, references=f"storage:{storage};")
        return own

    def volume(name: str, file: str, parent: str | None = None) -> None:
        number["Volume"] += 1
        own = f"vtkMRMLScalarVolumeNode{number['Volume']}"
        storage = f"vtkMRMLVolumeArchetypeStorageNode{number['Volume']}"
        display = f"vtkMRMLScalarVolumeDisplayNode{number['Volume']}"
        references = f"storage:{storage};display:{display};"
        if parent is not None:
            references += f"transform:{parent};"
        ElementTree.SubElement(
            root, "VolumeArchetypeStorage", id=storage, name=f"{name} storage", fileName=file, centerImage="0"
        )
        ElementTree.SubElement(
            root,
            "VolumeDisplay",
            id=display,
            name=f"{name} display",
            colorNodeID="vtkMRMLColorTableNodeGrey",
            autoWindowLevel="1",
            interpolate="1",
        )
        ElementTree.SubElement(root, "Volume", id=own, name=name, references=references)

    moving = transform("source to target (resampling)", "ddf.nrrd")
    transform("source to target (modeling)", "inverse_ddf.nrrd")
    for name, file in volumes.items():
        volume(name, file)
    volume("source moved", volumes[source], moving)
    return root


_SCRIPT = textwrap.dedent('''\
    """Load a trace into 3D Slicer: Slicer --python-script load_trace.py (or execute it in Slicer's Python console)."""

    import glob
    import os

    import slicer

    FOLDER = os.path.dirname(os.path.abspath(__file__))


    def file(name):
        return os.path.join(FOLDER, name)


    volumes = {}
    for path in sorted(glob.glob(file("*.nii.gz"))):
        name = os.path.basename(path)[: -len(".nii.gz")]
        volumes[name] = slicer.util.loadVolume(path, properties={"name": name})

    # Both move the source onto the image; the second moves markups without inverting a field.
    resampling = slicer.util.loadTransform(file("ddf.nrrd"))
    resampling.SetName("source to target (resampling)")
    modeling = slicer.util.loadTransform(file("inverse_ddf.nrrd"))
    modeling.SetName("source to target (modeling)")

    first = "source" if "source" in volumes else "source_0"
    moved = slicer.util.loadVolume(file(first + ".nii.gz"), properties={"name": "source moved"})
    moved.SetAndObserveTransformNodeID(resampling.GetID())

    shown = "image" if "image" in volumes else "image_0"
    slicer.util.setSliceViewerLayers(background=volumes[shown], foreground=moved, foregroundOpacity=0.5, fit=True)
    ''')
