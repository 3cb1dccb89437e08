"""Made heads with several contrasts a person, as lists for `medtrace prepare`."""

import csv
from functools import lru_cache

import nibabel
import numpy as np

from medtrace.data.tracebench.anatomy import load_template

MEANS = {"T1": (160.0, 440.0, 640.0), "FLAIR": (90.0, 620.0, 480.0), "T2": (860.0, 540.0, 380.0)}
"""Of CSF, gray and white matter."""
EDGE = 4.0


@lru_cache(maxsize=1)
def anatomy():
    """Tissue fractions (3, X, Y, Z) at 4 mm and where the brain is."""
    maps = load_template(2.0).maps[:, ::4, ::4, ::4].numpy()
    return maps[:3] / np.maximum(maps[:3].sum(0), 1.0), maps[4] > -1


def head(contrast, person=0):
    """A contrast of a person, whose brain is a little brighter and noisier than the one before."""
    tissues, inside = anatomy()
    noise = np.random.default_rng([person, len(contrast)]).normal(0, 5, inside.shape)
    values = (1 + 0.1 * person) * np.tensordot(MEANS[contrast], tissues, 1) + noise
    return np.where(inside, np.maximum(values, 1.0), 0.0).astype(np.float32)


def save_head(path, contrast, person=0, affine=None):
    affine = np.diag([EDGE, EDGE, EDGE, 1.0]) if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(head(contrast, person), affine), path)
    return path


def write_cohort(folder, persons=3, without=()):
    """A list of T1 and FLAIR to T2 with its images; `without` has (person, contrast) that nobody acquired."""
    rows = []
    for person in range(persons):
        row = {"subject": f"P{person}"}
        for column, contrast in (("source_T1", "T1"), ("source_FLAIR", "FLAIR"), ("target_T2", "T2")):
            if (person, contrast) in without:
                row[column] = ""
                continue
            row[column] = f"P{person}_{contrast}.nii.gz"
            save_head(folder / row[column], contrast, person)
        row["split"] = "test" if person == persons - 1 else "training"
        rows.append(row)
    path = folder / "pairs.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
