"""NIfTI headers, masks and label maps that are misread, and formats that are not read.

    python -m tests.cases.nifti_headers OUT [--only CASE]

Images hold the ramp of `common.departure`. Masks and label maps come with the image they belong to.
"""

import gzip
import struct

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
    center = grid_points(SHAPE, AFFINE)[INSIDE].reshape(-1, 3).mean(0)
    return {
        "entry": "read_mask",
        "image": "image.nii.gz",
        "input": "on_it.nii.gz",
        "accept": list(accept),
        "voxels_inside": INSIDE_VOXELS,
        "center_ras": [round(float(value), 4) for value in center],
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
    """xyzt_units says micrometer; voxels are 800 x 1100 x 3000 um.
    Reports: ANTsX/ANTsPy#877, google/neuroglancer#375
    Before: micrometers are taken for mm (spacing 800); a field exported from it misplaces ITK's image of the same file (mean difference 134 where doing nothing has 38)
    Right: spacing 0.8, 1.1, 3.0 mm, as ITK and ANTs read it, and the ramp
    """
    return in_unit(folder, "micron", 1e3)


@case
def unit_meter(folder):
    """xyzt_units says meter; voxels are 0.0008 x 0.0011 x 0.003 m.
    Reports: ANTsX/ANTsPy#877, google/neuroglancer#375
    Before: meters are taken for mm (spacing 0.0008)
    Right: spacing 0.8, 1.1, 3.0 mm and the ramp
    """
    return in_unit(folder, "meter", 1e-3)


@case
def no_form_codes(folder):
    """qform_code and sform_code are both 0; pixdim is 0.8, 1.1, 3.
    Reports: nipreps/fmriprep#874, nipy/nibabel#522
    Before: nibabel's own guess: centered, first axis flipped; ITK and ANTs put the same file elsewhere, so exported fields miss it
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
def ten_nanometer(folder):
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
    Right: 60 voxels inside, centered at center_ras; NaN is outside
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


# Further variants of every kind.

PIXDIM, UNIT, SLOPE, FORM_CODES, SFORM = 76, 123, 112, 252, 280
"""Bytes of NIfTI 1 where these fields begin."""


def edited(folder, *edits, affine=AFFINE, name="image.nii"):
    """A NIfTI file of one form code each, and bytes of its header changed: (offset, format, numbers)."""
    image = nib.Nifti1Image(ramp_volume(affine), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nib.save(image, folder / "image.nii")
    content = bytearray((folder / "image.nii").read_bytes())
    for offset, form, numbers in edits:
        struct.pack_into(f"<{form}", content, offset, *numbers)
    (folder / "image.nii").unlink()
    (folder / name).write_bytes(content)


def refused(name="image.nii", says=()):
    return {"entry": "read_image", "input": name, "accept": ["refuse"], "says": list(says)}


@case
def unit_micron_by_qform(folder):
    """Micrometres in a left-handed qform alone.
    Reports: ANTsX/ANTsPy#877
    Before: micrometers are taken for mm
    Right: the ramp at spacing 0.8, 1.1, 3.0 mm
    """
    affine = AFFINE @ np.diag([-1.0, 1, 1, 1])
    image = nib.Nifti1Image(ramp_volume(affine), None)
    scaled = affine.copy()
    scaled[:3] *= 1e3
    image.set_sform(None, 0)
    image.set_qform(scaled, 1)
    image.header.set_xyzt_units("micron", "sec")
    nib.save(image, folder / "image.nii")
    return image_right("image.nii", affine, tolerance=0.05) | {"itk": True}


@case
def unit_unknown(folder):
    """The unit is not told (code 0), a control.
    Reports: none
    Before: read rightly
    Right: mm, as everywhere
    """
    edited(folder, (UNIT, "B", [0]))
    return image_right("image.nii") | {"itk": True, "quiet": True}


@case
def unit_invalid(folder):
    """The unit has a code that NIfTI does not know (5).
    Reports: none
    Before: read as mm, in silence
    Right: mm, as ITK takes it, and a line that says so
    """
    edited(folder, (UNIT, "B", [5]))
    return image_right("image.nii") | {"itk": True}


@case
def no_form_codes_nifti2(folder):
    """NIfTI 2 without form codes.
    Reports: nipreps/fmriprep#874
    Before: nibabel's own guess
    Right: ITK's grid, or a refusal
    """
    affine = np.diag([-0.8, -1.1, 3.0, 1.0])
    image = nib.Nifti2Image(ramp_volume(affine), None)
    image.header.set_zooms((0.8, 1.1, 3.0))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(image, folder / "image.nii.gz")
    return image_right("image.nii.gz", affine, ("read", "refuse"))


@case
def negative_form_codes(folder):
    """Both form codes are -1.
    Reports: none
    Before: nibabel's own guess
    Right: ITK's grid, or a refusal
    """
    affine = np.diag([-0.8, -1.1, 3.0, 1.0])
    edited(folder, (FORM_CODES, "hh", [-1, -1]), affine=affine)
    return image_right("image.nii", affine, ("read", "refuse")) | {"itk": True}


@case
def form_code_nine(folder):
    """Both form codes are 9, which NIfTI does not know; ITK takes any above 0.
    Reports: none
    Before: nibabel's own guess: centered, first axis flipped
    Right: the sform
    """
    edited(folder, (FORM_CODES, "hh", [9, 9]))
    return image_right("image.nii") | {"itk": True}


@case
def pixdim_rounded(folder):
    """A writer rounded pixdim to one decimal: 1.1 is right, 0.84 became 0.8.
    Reports: none
    Before: the identity grid
    Right: the sform, and a line with both sizes
    """
    affine = oblique_affine((0.84, 1.1, 3.0))
    edited(folder, (PIXDIM + 4, "f", [0.8]), (FORM_CODES, "h", [0]), affine=affine)
    return image_right("image.nii", affine) | {"says": ["0.8 x 1.1 x 3", "0.84 x 1.1 x 3"]}


@case
def pixdim_negative(folder):
    """A negative pixdim beside a right sform.
    Reports: none
    Before: nibabel makes it positive, ITK turns the axis
    Right: the sform, and a line
    """
    edited(folder, (PIXDIM + 4, "f", [-0.8]))
    return image_right("image.nii") | {"says": ["-0.8 x 1.1 x 3"]}


@case
def pixdim_negative_by_qform(folder):
    """A negative pixdim, and a qform that needs it.
    Reports: none
    Before: nibabel makes it positive, ITK turns the axis
    Right: refused, naming the size
    """
    edited(folder, (PIXDIM + 4, "f", [-0.8]), (FORM_CODES, "hh", [1, 0]))
    return refused(says=["-0.8"])


@case
def pixdim_zero(folder):
    """No voxel size at all, and no sform.
    Reports: none
    Before: 1 mm, in silence
    Right: refused
    """
    edited(folder, (PIXDIM + 4, "3f", [0, 0, 0]), (FORM_CODES, "hh", [1, 0]))
    return refused(says=["voxel size 0"])


@case
def forms_disagree(folder):
    """sform (a template, code 4) and qform (the scanner, code 1) put the voxels 40 mm apart.
    Reports: none; registered images
    Before: the sform in silence, where ITK takes the qform
    Right: the sform, as nibabel and FSL, and a line that reports the distance
    """
    image = image_of()
    moved = AFFINE.copy()
    moved[0, 3] += 40
    image.set_sform(AFFINE, 4)
    image.set_qform(moved, 1)
    nib.save(image, folder / "image.nii.gz")
    return image_right("image.nii.gz") | {"says": ["40 mm apart"]}


@case
def forms_agree(folder):
    """Both forms, set alike, a control; so is the quaternion's rounding.
    Reports: none
    Before: read rightly
    Right: the ramp, and nothing said
    """
    edited(folder)
    return image_right("image.nii") | {"itk": True, "quiet": True}


@case
def sform_singular(folder):
    """sform_code is 1, but the sform is all zeros; the qform is right.
    Reports: none
    Before: refused
    Right: the qform, as ITK, and a line; or a refusal
    """
    edited(folder, (SFORM, "12f", [0] * 12))
    return image_right("image.nii", accept=("read", "refuse")) | {"itk": True}


@case
def sform_singular_alone(folder):
    """The sform is all zeros, and there is no qform.
    Reports: none
    Before: refused
    Right: refused
    """
    edited(folder, (SFORM, "12f", [0] * 12), (FORM_CODES, "h", [0]))
    return refused(says=["singular"])


@case
def sform_nan(folder):
    """The sform holds NaN.
    Reports: none
    Before: refused as singular
    Right: refused
    """
    edited(folder, (SFORM, "f", [np.nan]))
    return refused(says=["finite"])


@case
def qfac_zero(folder):
    """pixdim[0] is 0 in a qform, which NIfTI says is 1.
    Reports: none
    Before: read rightly
    Right: the ramp
    """
    edited(folder, (PIXDIM, "f", [0]), (FORM_CODES, "hh", [1, 0]))
    return image_right("image.nii", tolerance=0.05) | {"itk": True}


@case
def qfac_half(folder):
    """pixdim[0] is -0.5 in a qform: nibabel takes 1, ITK -1.
    Reports: none
    Before: 1, in silence
    Right: refused
    """
    edited(folder, (PIXDIM, "f", [-0.5]), (FORM_CODES, "hh", [1, 0]))
    return refused(says=["-0.5"])


@case
def sheared_sform(folder):
    """An sform with a shear, which the reader keeps (what writes ITK files refuses it).
    Reports: none
    Before: read rightly
    Right: the ramp
    """
    affine = AFFINE.copy()
    affine[:3, 1] += 0.3 * affine[:3, 0]
    nib.save(image_of(affine), folder / "image.nii")
    return image_right("image.nii", affine)


@case
def ten_nanometer_in_micron(folder):
    """10 nm voxels as 0.01 micrometers.
    Reports: InsightSoftwareConsortium/ITK#3333
    Before: read as 0.01 mm
    Right: spacing 8e-6, 1.1e-5, 3e-5 mm
    """
    affine = AFFINE.copy()
    affine[:3] *= 1e-5
    ramp = {"offset": RAMP["offset"], "gradient": [value * 1e5 for value in RAMP["gradient"]]}
    scaled = affine.copy()
    scaled[:3] *= 1e3
    image = nib.Nifti1Image(ramp_volume(affine, ramp), scaled)
    image.header.set_xyzt_units("micron")
    nib.save(image, folder / "image.nii.gz")
    return image_right("image.nii.gz", affine, ramp=ramp, tolerance=0.5)


@case
def ten_kilometer(folder):
    """Voxels of 10 km, a map: no more singular than small ones.
    Reports: none
    Before: read rightly
    Right: the ramp
    """
    affine = AFFINE.copy()
    affine[:3] *= 1e7
    ramp = {"offset": RAMP["offset"], "gradient": [value * 1e-7 for value in RAMP["gradient"]]}
    nib.save(nib.Nifti1Image(ramp_volume(affine, ramp), affine), folder / "image.nii.gz")
    return image_right("image.nii.gz", affine, ramp=ramp, tolerance=0.5)


@case
def pair_in_gzip(folder):
    """A pair in gzip, as FSL writes NIFTI_PAIR_GZ.
    Reports: none
    Before: "unknown kind of file"
    Right: read by either name
    """
    nib.save(nib.Nifti1Pair(ramp_volume(AFFINE), AFFINE), folder / "image.img")
    for ending in ("hdr", "img"):
        content = (folder / f"image.{ending}").read_bytes()
        (folder / f"image.{ending}").unlink()
        (folder / f"image.{ending}.gz").write_bytes(gzip.compress(content))
    return image_right("image.hdr.gz") | {"also": ["image.img.gz"]}


@case
def pair_nifti2(folder):
    """A pair of NIfTI 2.
    Reports: none
    Before: "unknown kind of file"
    Right: read by either name
    """
    nib.save(nib.Nifti2Pair(ramp_volume(AFFINE), AFFINE), folder / "image.hdr")
    return image_right("image.hdr") | {"also": ["image.img"]}


@case
def pair_without_header(folder):
    """The voxels of a pair alone.
    Reports: none
    Before: "unknown kind of file"
    Right: refused, naming the missing half
    """
    nib.save(nib.Nifti1Pair(ramp_volume(AFFINE), AFFINE), folder / "image.img")
    (folder / "image.hdr").unlink()
    return refused("image.img", says=["image.hdr"])


@case
def analyze(folder):
    """ANALYZE 7.5, whose left and right nobody knows.
    Reports: none
    Before: "unknown kind of file"
    Right: refused, naming the format
    """
    nib.save(nib.AnalyzeImage(ramp_volume(AFFINE), np.diag([-0.8, 1.1, 3, 1])), folder / "image.img")
    return refused("image.img", says=["ANALYZE"]) | {"also": ["image.hdr"]}


@case
def gzip_called_nii(folder):
    """A gzip stream under the name .nii.
    Reports: none
    Before: "no NIfTI header"
    Right: read: the bytes tell
    """
    nib.save(image_of(), folder / "image.nii.gz")
    (folder / "image.nii.gz").rename(folder / "image.nii")
    return image_right("image.nii")


@case
def plain_called_nii_gz(folder):
    """An uncompressed file under the name .nii.gz.
    Reports: none
    Before: refused as no gzip file
    Right: read: the bytes tell
    """
    nib.save(image_of(), folder / "image.nii")
    (folder / "image.nii").rename(folder / "image.nii.gz")
    return image_right("image.nii.gz")


@case
def freesurfer_mgh(folder):
    """FreeSurfer's uncompressed image.mgh, left-handed, of short integers.
    Reports: freesurfer/freesurfer#1333
    Before: "unknown kind of file"
    Right: read
    """
    affine = AFFINE @ np.diag([-1.0, 1, 1, 1])
    nib.save(nib.MGHImage(np.rint(ramp_volume(affine)).astype(np.int16), affine), folder / "image.mgh")
    return image_right("image.mgh", affine, tolerance=0.51)


@case
def freesurfer_uncompressed_mgz(folder):
    """An uncompressed volume under the name .mgz.
    Reports: none
    Before: "unknown kind of file"
    Right: read: the bytes tell
    """
    nib.save(nib.MGHImage(ramp_volume(AFFINE), AFFINE), folder / "image.mgh")
    (folder / "image.mgh").rename(folder / "image.mgz")
    return image_right("image.mgz", tolerance=0.05)


@case
def freesurfer_without_axes(folder):
    """goodRASFlag is 0: neither sizes nor axes are known, and nibabel and FreeSurfer guess different ones.
    Reports: none
    Before: "unknown kind of file"
    Right: refused
    """
    nib.save(nib.MGHImage(ramp_volume(AFFINE), AFFINE), folder / "image.mgh")
    content = bytearray((folder / "image.mgh").read_bytes())
    struct.pack_into(">h", content, 28, 0)
    (folder / "image.mgh").write_bytes(content)
    return refused("image.mgh", says=["axes"])


@case
def freesurfer_claims_more(folder):
    """A header that claims 30000 cubed voxels.
    Reports: none
    Before: "unknown kind of file"
    Right: refused before room is made
    """
    nib.save(nib.MGHImage(ramp_volume(AFFINE), AFFINE), folder / "image.mgh")
    content = bytearray((folder / "image.mgh").read_bytes())
    struct.pack_into(">3i", content, 4, 30000, 30000, 30000)
    (folder / "image.mgz").write_bytes(gzip.compress(content))
    (folder / "image.mgh").unlink()
    return refused("image.mgz", says=["GiB"])


@case
def slope_and_intercept(folder):
    """Short integers with slope 0.05 and intercept 600, a control.
    Reports: none
    Before: read rightly
    Right: the ramp, to half a slope
    """
    image = nib.Nifti1Image(np.rint((ramp_volume(AFFINE) - 600) / 0.05).astype(np.int16), AFFINE)
    image.header.set_slope_inter(0.05, 600)
    nib.save(image, folder / "image.nii.gz")
    content = bytearray(gzip.decompress((folder / "image.nii.gz").read_bytes()))
    struct.pack_into("<2f", content, SLOPE, 0.05, 600)
    stored = np.rint((ramp_volume(AFFINE) - 600) / 0.05).astype("<i2")
    content[352:] = stored.tobytes(order="F")
    (folder / "image.nii.gz").write_bytes(gzip.compress(content))
    return image_right("image.nii.gz", tolerance=0.03) | {"itk": True, "quiet": True}


@case
def slope_zero(folder):
    """Slope 0 beside an intercept: NIfTI says that neither counts, ITK adds the intercept.
    Reports: none
    Before: the numbers as they are, in silence
    Right: the numbers as they are, and a line
    """
    edited(folder, (SLOPE, "2f", [0, 100]))
    return image_right("image.nii") | {"says": ["intercept 100"]}


@case
def slope_nan(folder):
    """The slope is NaN, as nibabel leaves it.
    Reports: none
    Before: read rightly
    Right: the ramp
    """
    edited(folder, (SLOPE, "2f", [np.nan, np.nan]))
    return image_right("image.nii") | {"itk": True, "quiet": True}


@case
def colors(folder):
    """RGB voxels.
    Reports: none
    Before: refused
    Right: refused
    """
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]), AFFINE), folder / "image.nii")
    return refused(says=["colors"])


@case
def integers_of_64_bits(folder):
    """64-bit integers.
    Reports: none
    Before: read rightly
    Right: the ramp, rounded
    """
    nib.save(
        nib.Nifti1Image(np.rint(ramp_volume(AFFINE)).astype(np.int64), AFFINE, dtype="int64"), folder / "image.nii"
    )
    return image_right("image.nii", tolerance=0.51) | {"itk": True}


@case
def fourth_axis_of_one(folder):
    """A fourth axis of length 1.
    Reports: none
    Before: read rightly
    Right: one channel
    """
    nib.save(nib.Nifti1Image(ramp_volume(AFFINE)[..., None], AFFINE), folder / "image.nii.gz")
    return image_right("image.nii.gz")


@case
def mask_probability(folder):
    """A probability map whose largest value is 0.9, 0.3 around.
    Reports: none
    Before: all of it is inside
    Right: 60 voxels; what is below 0.45 is outside
    """
    write_pair(folder, box(0.9, 0.3))
    return mask_right()


@case
def mask_rim(folder):
    """A mask of 255 with one layer of 64 and one of 16 around, as reducing it leaves them.
    Reports: none
    Before: all of it is inside
    Right: 60 voxels: a rim is not a label
    """
    volume = np.zeros(SHAPE, np.uint8)
    volume[1:8, 2:10, 0:9] = 16
    volume[2:7, 3:9, 1:8] = 64
    volume[INSIDE] = 255
    write_pair(folder, volume)
    return mask_right()


@case
def mask_percent(folder):
    """A smooth mask in percent, whole numbers from 0 to 100.
    Reports: none
    Before: all of it is inside
    Right: what has 50 percent and more
    """
    middle = np.array([4, 5.5, 4])
    far = np.linalg.norm((grid_points(SHAPE, np.eye(4)) - middle) / (1, 1.2, 0.8), axis=-1)
    volume = np.rint(np.clip(150 - 35 * far, 0, 100)).astype(np.uint8)
    write_pair(folder, volume)
    return mask_right() | {"voxels_inside": int((volume >= 50).sum())}


@case
def mask_of_labels(folder):
    """A label map of BraTS (1, 2, 4) given as a mask.
    Reports: none
    Before: 60 voxels inside
    Right: 60 voxels: every positive label
    """
    volume = box(2, 0, np.int16)
    volume[3, 4:8, 2:7], volume[4, 5:7, 3:5] = 1, 4
    write_pair(folder, volume)
    return mask_right() | {"says": ["label map"]}


@case
def mask_of_many_labels(folder):
    """A label map of some 40 structures up to 2035 given as a mask.
    Reports: none
    Before: 60 voxels inside
    Right: every positive label is inside
    """
    index = grid_points(SHAPE, np.eye(4)).astype(int)
    volume = 3 + 7 * (index[..., 0] // 4) + 31 * (index[..., 1] // 4) + 401 * (index[..., 2] // 4)
    volume[0], volume[11, 13, 9] = 0, 2035
    write_pair(folder, volume.astype(np.int32))
    points = grid_points(SHAPE, AFFINE)[1:].reshape(-1, 3).mean(0)
    center = [round(float(value), 4) for value in points]
    return mask_right() | {"voxels_inside": 11 * 14 * 10, "center_ras": center, "says": ["label map"]}


@case
def mask_of_two_hemispheres(folder):
    """FreeSurfer's filled volume, 127 and 255: two labels, though the larger is a full scale.
    Reports: none
    Before: 60 voxels inside
    Right: 250 voxels: both regions
    """
    volume = np.zeros(SHAPE, np.uint8)
    volume[1:6, 4:9, 2:7], volume[6:11, 4:9, 2:7] = 127, 255
    write_pair(folder, volume)
    center = grid_points(SHAPE, AFFINE)[1:11, 4:9, 2:7].reshape(-1, 3).mean(0)
    return mask_right() | {"voxels_inside": 250, "center_ras": [round(float(value), 4) for value in center]}


def mask_refused(says):
    return {"entry": "read_mask", "image": "image.nii.gz", "input": "on_it.nii.gz", "accept": ["refuse"], "says": says}


@case
def mask_of_dust(folder):
    """An empty mask that resampling left at 1e-7.
    Reports: none
    Before: 60 voxels inside
    Right: refused, naming the value
    """
    write_pair(folder, box(1e-7))
    return mask_refused(["1e-07"])


@case
def mask_nothing(folder):
    """NaN and -1 alone.
    Reports: none
    Before: all 1680 voxels are inside
    Right: refused as empty
    """
    write_pair(folder, box(-1, np.nan))
    return mask_refused(["empty"])


@case
def mask_infinite(folder):
    """Infinity inside.
    Reports: none
    Before: 60 voxels inside
    Right: refused
    """
    write_pair(folder, box(np.inf))
    return mask_refused(["infinity"])


@case
def mask_everything(folder):
    """A mask of ones everywhere.
    Reports: none
    Before: taken in silence
    Right: taken, with a line that says that it covers everything
    """
    write_pair(folder, box(1, 1, np.uint8))
    center = grid_points(SHAPE, AFFINE).reshape(-1, 3).mean(0)
    center = [round(float(value), 4) for value in center]
    return mask_right() | {"voxels_inside": 1680, "center_ras": center, "says": ["covers"]}


@case
def mask_flipped(folder):
    """A mask of the image's shape whose first axis runs the other way.
    Reports: TorchIO-project/torchio#592
    Before: refused by read_mask
    Right: refused everywhere
    """
    write_pair(folder, box(1, 0, np.uint8), AFFINE @ np.diag([-1.0, 1, 1, 1]))
    return mask_right(("refuse",))


@case
def mask_of_another_shape(folder):
    """A mask with a slice less.
    Reports: TorchIO-project/torchio#647
    Before: refused by read_mask
    Right: refused everywhere
    """
    write_pair(folder, box(1, 0, np.uint8)[..., :-1])
    return mask_right(("refuse",))


def labels_right(folder, volume, **saved):
    nib.save(image_of(), folder / "image.nii.gz")
    nib.save(nib.Nifti1Image(volume, AFFINE, **saved), folder / "on_it.nii.gz")
    values, counts = np.unique(volume, return_counts=True)
    right = {str(int(value)): int(count) for value, count in zip(values, counts) if value}
    return {
        "entry": "read_labels",
        "image": "image.nii.gz",
        "input": "on_it.nii.gz",
        "accept": ["read"],
        "counts": right,
    }


@case
def labels_largest(folder):
    """The largest label, 65535, as uint16.
    Reports: none
    Before: refused
    Right: read and written without change
    """
    volume = box(65535, 0, np.uint16)
    volume[0] = 1
    return labels_right(folder, volume)


@case
def labels_int32(folder):
    """FreeSurfer's labels 4035 and 11101 as int32.
    Reports: freesurfer/freesurfer#488
    Before: refused
    Right: read and written without change
    """
    volume = box(11101, 0, np.int32)
    volume[0] = 4035
    return labels_right(folder, volume)


@case
def labels_float(folder):
    """Whole numbers as float64, as many tools write labels.
    Reports: none
    Before: refused above 255
    Right: read and written without change
    """
    return labels_right(folder, box(1035.0, 0, np.float64))


def labels_refused(folder, value, dtype, says):
    write_pair(folder, box(value, 0, dtype))
    return {
        "entry": "read_labels",
        "image": "image.nii.gz",
        "input": "on_it.nii.gz",
        "accept": ["refuse"],
        "says": says,
    }


@case
def labels_negative(folder):
    """A negative label.
    Reports: none
    Before: refused
    Right: refused with the value
    """
    return labels_refused(folder, -3, np.int16, ["-3"])


@case
def labels_fractional(folder):
    """A label map that was interpolated.
    Reports: none
    Before: refused
    Right: refused with the value
    """
    return labels_refused(folder, 2034.9998, np.float64, ["2034.99"])


@case
def labels_too_large(folder):
    """A label above 65535.
    Reports: none
    Before: refused
    Right: refused with the value
    """
    return labels_refused(folder, 70000, np.int32, ["70000"])


def labels_on(folder, affine, shape=None):
    """The pair of `labels_elsewhere`, with its labels put elsewhere."""
    right = labels_elsewhere(folder)
    labels = nib.load(folder / "labels.nii.gz")
    values = np.asarray(labels.dataobj)
    values = values if shape is None else values[tuple(slice(size) for size in shape)]
    nib.save(nib.Nifti1Image(values, affine), folder / "labels.nii.gz")
    return right


@case
def labels_a_voxel_off(folder):
    """A label map half a voxel off.
    Reports: none
    Before: accepted in silence
    Right: refused before any work, with the distance
    """
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[2, 3] = 1.5
    return labels_on(folder, affine) | {"says": ["1.5 mm"]}


@case
def labels_of_fewer_slices(folder):
    """A label map of another shape.
    Reports: none
    Before: refused
    Right: refused before any work
    """
    return labels_on(folder, np.diag([3.0, 3.0, 3.0, 1.0]), (24, 26, 5)) | {"says": ["(24, 26, 5)"]}


if __name__ == "__main__":
    main(__doc__)
