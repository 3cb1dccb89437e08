"""A MONAI Deploy operator: DICOM series as input, its translation and Deformable Spatial Registrations as output."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medtrace.storage.directories import atomic_directory
from medtrace.storage.files import link_or_copy, make_directory, scratch_directory
from medtrace.workflows.handing_on.hub import local_run
from medtrace.workflows.translate import translate

INPUT, OUTPUT = "study_selected_series_list", "dicom_folder"
"""Ports: what `DICOMSeriesSelectorOperator` emits, and the folder that was written."""
OPERATOR = "TraceOperator"


def translate_series(run: str | os.PathLike, files: Sequence[str | os.PathLike], out: Path, **settings: Any) -> Path:
    """Translate the DICOM series of some files, and write image and displacements as DICOM of the same study.

    Args:
        run: folder of a training, model folder, or `hf://owner/name`.
        files: the instances of one series.
        out: a new or empty folder; see `medtrace.io.save_dicom` for its content.
        settings: settings of `medtrace.workflows.translate.translate`, such as contrast or device.

    Returns:
        The folder.

    Raises:
        FileExistsError: if `out` is in use.
        ValueError: if there is no file, or the series does not fit the run.
    """
    if not files:
        raise ValueError("files: expected the instances of a series, received none; select a series")
    with scratch_directory() as place:
        series = make_directory(place / "series")
        for number, file in enumerate(map(Path, files)):
            link_or_copy(file, series / f"{number:06d}.dcm")
        translate(run, series, place / "trace", dicom=out, report=False, progress=False, **settings)
    return out


def _files_of(series: Any) -> list[str]:
    """The files of a MONAI Deploy series' instances."""
    return [str(one.get_native_sop_instance().filename) for one in series.get_sop_instances()]


def _operator() -> type:
    try:
        from monai.deploy.core import ConditionType, Operator
    except ImportError as error:
        raise ModuleNotFoundError(
            f"{OPERATOR}: expected MONAI Deploy's SDK, received none; pip install monai-deploy-app-sdk"
        ) from error

    class TraceOperator(Operator):  # type: ignore[misc]
        """Translate every selected DICOM series with a trained run and write the trace as DICOM.

        Input `study_selected_series_list` is what `DICOMSeriesSelectorOperator` emits; output `dicom_folder`, which
        need not be connected, the folder that holds one folder per series, named by its SeriesInstanceUID, with the
        derived series `image/` and the Deformable Spatial Registrations `ddf.dcm` and `inverse_ddf.dcm`.

        Args:
            fragment: the application.
            args: further arguments of the SDK's operator.
            run: folder of a training, model folder, or `hf://owner/name`.
            output_folder: where the folders of the series are made.
            settings: settings of `medtrace.workflows.translate.translate`.
            kwargs: further arguments of the SDK's operator, such as name.
        """

        def __init__(
            self,
            fragment: Any,
            *args: Any,
            run: str | os.PathLike,
            output_folder: str | os.PathLike,
            settings: dict[str, Any] | None = None,
            **kwargs: Any,
        ) -> None:
            self.model = local_run(run)
            self.output_folder = Path(output_folder)
            self.translation = dict(settings or {})
            # The SDK requires its own constructor to run last.
            super().__init__(fragment, *args, **kwargs)

        def setup(self, spec: Any) -> None:
            """Declare the ports."""
            spec.input(INPUT)
            spec.output(OUTPUT).condition(ConditionType.NONE)

        def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
            """Translate the selected series.

            Raises:
                ValueError: if no series is selected.
            """
            studies = op_input.receive(INPUT) or []
            selected = [one.series for study in studies for one in study.selected_series]
            if not selected:
                raise ValueError(f"{INPUT}: expected a selected series, received none; check the selector's rules")
            with atomic_directory(self.output_folder, make_parents=True) as folder:
                for series in selected:
                    place = folder / str(series.get_series_instance_uid())
                    translate_series(self.model, _files_of(series), place, **self.translation)
            op_output.emit(self.output_folder, OUTPUT)

    return TraceOperator


def __getattr__(name: str) -> Any:
    """`TraceOperator`, whose base class is the SDK's, created on first access."""
    if name != OPERATOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    result = _operator()
    globals()[OPERATOR] = result
    return result
