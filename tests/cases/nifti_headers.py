"""NIfTI headers, masks and label maps that are misread, and formats that are not read.

    python -m tests.cases.nifti_headers OUT [--only CASE]

Images hold the ramp of `common.departure`. Masks and label maps come with the image they belong to.
"""

import nibabel as nib
import numpy as np

from tests.cases.common import RAMP, case, grid_points, main, oblique_affine, ramp_at

SHAPE = (12, 14, 10)
AFFINE = oblique_affine()
INSIDE = (slice(3, 6), slice(4, 8), slice(2, 7))  # 3 x 4 x 5 = 60 voxels
INSIDE_VOXELS = 60


def ramp_volume(affine, ramp=None):
    return ramp_at(grid_points(SHAPE, affine), ramp).astype(np.float32)


def image_of(affine=AFFINE):
    return nib.Nifti1Image(ramp_volume(affine), affine)


def box(inside, outside=0.0, dtype=np.float32):
    volume = np.full(SHAPE, outside, dtype)
    volume[INSIDE] = inside
    return volume


def image_right(name, affine=AFFINE, accept=("read",), ramp=None, tolerance=0.01):
    spacing = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    return {
        "entry": "read_image",
        "input": name,
        "accept": list(accept),
        "shape": list(SHAPE),
        "spacing": [float(f"{value:.6g}") for value in spacing],
        "ramp": {**(ramp or RAMP), "tolerance": tolerance},
    }


def write_pair(folder, values, affine=AFFINE, dtype=None):
    """The image and a mask or label map."""
    nib.save(image_of(), folder / "image.nii.gz")
    nib.save(nib.Nifti1Image(values, affine, dtype=dtype), folder / "on_it.nii.gz")


def mask_right(accept=("read",)):
    centre = grid_points(SHAPE, AFFINE)[INSIDE].reshape(-1, 3).mean(0)
    return {
        "entry": "read_mask",
        "image": "image.nii.gz",
        "input": "on_it.nii.gz",
        "accept": list(accept),
        "voxels_inside": INSIDE_VOXELS,
        "centre_ras": [round(float(value), 4) for value in centre],
    }


@case
def plain(folder):
    """A plain oblique NIfTI in mm, the control.
    Reports: none
    Before: read rightly
    Right: shape 12 x 14 x 10, spacing 0.8, 1.1, 3.0, the ramp
    """
    nib.save(image_of(), folder / "image.nii.gz")
    return image_right("image.nii.gz")


def in_unit(folder, unit, factor):
    affine = AFFINE.copy()
    affine[:3] *= factor
    image = nib.Nifti1Image(ramp_volume(AFFINE), affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, folder / "image.nii.gz")
    return image_right("image.nii.gz", tolerance=0.05)


@case
def unit_micron(folder):
    """xyzt_units says micrometre; voxels are 800 x 1100 x 3000 um.
    Reports: ANTsX/ANTsPy#877, google/neuroglancer#375
    Before: micrometres are taken for mm (spacing 800); a field exported from it misplaces ITK's image of the same file (mean difference 134 where doing nothing has 38)
    Right: spacing 0.8, 1.1, 3.0 mm, as ITK and ANTs read it, and the ramp
    """
    return in_unit(folder, "micron", 1e3)


@case
def unit_metre(folder):
    """xyzt_units says metre; voxels are 0.0008 x 0.0011 x 0.003 m.
    Reports: ANTsX/ANTsPy#877, google/neuroglancer#375
    Before: metres are taken for mm (spacing 0.0008)
    Right: spacing 0.8, 1.1, 3.0 mm and the ramp
    """
    return in_unit(folder, "meter", 1e-3)


@case
def no_form_codes(folder):
    """qform_code and sform_code are both 0; pixdim is 0.8, 1.1, 3.
    Reports: nipreps/fmriprep#874, nipy/nibabel#522
    Before: nibabel's own guess: centred, first axis flipped; ITK and ANTs put the same file elsewhere, so exported fields miss it
    Right: ITK's grid, affine diag(-0.8, -1.1, 3, 1) RAS with origin 0, on which the ramp holds; or a refusal
    """
    affine = np.diag([-0.8, -1.1, 3.0, 1.0])
    image = nib.Nifti1Image(ramp_volume(affine), None)
    image.header.set_zooms((0.8, 1.1, 3.0))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(image, folder / "image.nii.gz")
    return image_right("image.nii.gz", affine, ("read", "refuse"))


@case
def pixdim_contradicts_sform(folder):
    """The sform is right (0.8, 1.1, 3 mm, oblique), but pixdim was left at 1, 1, 1 and qform_code at 0.
    Reports: none; a header that scripts often write
    Before: a third reading that no other program shares: the identity grid at origin 0 (sform dropped in silence by the reader's header repair); `medtrace.io.read_image` takes the sform
    Right: the sform, as nibabel reads it, and the ramp; or a refusal that names both voxel sizes (ITK takes 1 mm from pixdim, axes and origin from the sform)
    """
    image = nib.Nifti1Image(ramp_volume(AFFINE), None)
    image.header.set_sform(AFFINE, 1)
    nib.save(image, folder / "image.nii.gz")
    return image_right("image.nii.gz", accept=("read", "refuse"))


@case
def ten_nanometre(folder):
    """Electron microscopy: 10 nm voxels in mm (1e-5 mm), a proper affine.
    Reports: InsightSoftwareConsortium/ITK#3333
    Before: refused as "singular affine", because the determinant (2.6e-15) is compared with a fixed 1e-12
    Right: read, spacing 8e-6, 1.1e-5, 3e-5 mm; the ramp has gradient 3e5, 2e5, 5e5 per mm
    """
    affine = AFFINE.copy()
    affine[:3] *= 1e-5
    ramp = {"offset": RAMP["offset"], "gradient": [value * 1e5 for value in RAMP["gradient"]]}
    nib.save(nib.Nifti1Image(ramp_volume(affine, ramp), affine), folder / "image.nii.gz")
    return image_right("image.nii.gz", affine, ramp=ramp, tolerance=0.5)


@case
def pair_hdr_img(folder):
    """A NIfTI pair, image.hdr and image.img.
    Reports: none; the format's other standard form
    Before: "unknown kind of file", for either name
    Right: read by either name: spacing 0.8, 1.1, 3.0 and the ramp
    """
    nib.save(nib.Nifti1Pair(ramp_volume(AFFINE), AFFINE), folder / "image.img")
    return image_right("image.img") | {"also": ["image.hdr"]}


@case
def freesurfer_mgz(folder):
    """FreeSurfer's image.mgz.
    Reports: niivue/niivue#289, freesurfer/freesurfer#1333
    Before: "unknown kind of file"
    Right: read: spacing 0.8, 1.1, 3.0 and the ramp
    """
    nib.save(nib.MGHImage(ramp_volume(AFFINE), AFFINE), folder / "image.mgz")
    return image_right("image.mgz", tolerance=0.05)


@case
def mask_nan_outside(folder):
    """A float mask: 1 inside, NaN outside (nilearn, SPM).
    Reports: none; masks as nilearn and SPM write them
    Before: NaN is "not zero": all 1680 voxels are inside
    Right: 60 voxels inside, centred at centre_ras; NaN is outside
    """
    write_pair(folder, box(1, np.nan))
    return mask_right()


@case
def mask_minus_one_outside(folder):
    """A mask: 1 inside, -1 outside.
    Reports: none; masks as users of FireANTs have them
    Before: all 1680 voxels are inside
    Right: 60 voxels inside; negative values are outside
    """
    write_pair(folder, box(1, -1, np.int16))
    return mask_right()


@case
def mask_halo(folder):
    """A resampled mask: 1 inside, 1e-7 everywhere else.
    Reports: none; masks as users of FireANTs have them
    Before: all 1680 voxels are inside
    Right: 60 voxels inside; what lies below half of the largest value is outside
    """
    write_pair(folder, box(1, 1e-7))
    return mask_right()


@case
def mask_255(folder):
    """A mask of 255 inside and 0 outside, a control.
    Reports: none
    Before: 60 voxels inside
    Right: 60 voxels inside
    """
    write_pair(folder, box(255, 0, np.uint8))
    return mask_right()


@case
def mask_elsewhere(folder):
    """A mask of the image's shape whose header lies 30 mm off.
    Reports: TorchIO-project/torchio#592, TorchIO-project/torchio#647
    Before: refused by read_mask, with both files' names
    Right: refused, everywhere a mask is taken (register, translate, prepare)
    """
    affine = AFFINE.copy()
    affine[0, 3] += 30
    write_pair(folder, box(1, 0, np.uint8), affine)
    return mask_right(("refuse",))


@case
def labels_freesurfer(folder):
    """A FreeSurfer label map, int16, with labels 2, 251 and 2035.
    Reports: freesurfer/freesurfer#488, ANTsX/ANTs#446
    Before: refused ("whole numbers from 0 to 255"); written as int16, labels are scaled and differ by up to 0.02
    Right: read as 2, 251 and 2035 (60 voxels of 2035, 14 of 251, 14 of 2), and written back without change
    """
    volume = box(2035, 0, np.int16)
    volume[0, :, 0], volume[1, :, 0] = 2, 251
    write_pair(folder, volume)
    return {
        "entry": "read_labels",
        "image": "image.nii.gz",
        "input": "on_it.nii.gz",
        "accept": ["read"],
        "counts": {"2": 14, "251": 14, "2035": INSIDE_VOXELS},
    }


@case
def labels_elsewhere(folder):
    """A label map of the source's shape but with another affine: flipped, and 500 mm away.
    Reports: none
    Before: `medtrace register source.nii.gz target.nii.gz --labels labels.nii.gz --figure figure.png` accepts it in silence (only the shape is looked at)
    Right: refused, naming labels.nii.gz and the distance, before any work
    """
    shape, affine = (24, 26, 6), np.diag([3.0, 3.0, 3.0, 1.0])
    index = grid_points(shape, np.eye(4))
    for name, middle in (("source", (11, 12, 3)), ("target", (13, 12, 3))):
        blob = 100 + 800 * np.exp(-((index - middle) ** 2).sum(-1) / 40)
        nib.save(nib.Nifti1Image(blob.astype(np.float32), affine), folder / f"{name}.nii.gz")
    labels = (np.linalg.norm(index - (11, 12, 3), axis=-1) < 4).astype(np.uint8)
    away = affine.copy()
    away[0], away[1, 3] = -away[0], 500
    nib.save(nib.Nifti1Image(labels, away), folder / "labels.nii.gz")
    return {"entry": "register --labels", "input": "labels.nii.gz", "accept": ["refuse"]}


if __name__ == "__main__":
    main(__doc__)
