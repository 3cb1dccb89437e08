"""Help of the command line: commands in groups, whole descriptions, examples."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from typer.core import TyperCommand

from medtrace.cli.output import COMMON

WIDTH = 110
"""Maximum width of help in columns; a narrower terminal uses its own width."""
GROUPS: Mapping[str, tuple[str, ...]] = {
    "Two scans, no training": ("register", "trace", "apply", "landmarks"),
    "Train and translate": ("prepare", "plan", "train", "evaluate", "translate", "runs", "methods"),
    "Assess results": ("certify", "calibrate", "traceability", "report"),
    "Other programs": (
        "convert",
        "export",
        "import",
        "dicom",
        "bids",
        "slicer-modules",
        "bundle",
        "export-model",
        "card",
    ),
    "Benchmarks and papers": ("bench", "reproduce"),
    "This installation": ("demo", "doctor"),
}
"""Heading → the commands under it; commands in no group are listed under "More"."""
EXAMPLES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "prepare": (
        ("pairs of a list", "prepare pairs.csv --out dataset"),
        ("volumes in a known layout", "prepare BraTS-Reg --select t1 --dims 3 --out dataset"),
        ("photographs of two domains", "prepare --sources before --targets after --out dataset"),
        ("photographs, cropped to the face", "prepare pairs.csv --faces --out dataset"),
    ),
    "plan": (("method, hours and memory, before anything is trained", "plan dataset"),),
    "train": (
        ("a prepared dataset", "train tracetrans dataset --out runs/tracetrans"),
        ("with another learning rate", "train reggan dataset --set optimizer.learning_rate=2e-4"),
        ("resume after an interruption", "train tracetrans dataset --out runs/tracetrans --resume"),
        ("a test run, in seconds", "train tracetrans --smoke --out runs/smoke"),
    ),
    "methods": (("all of them", "methods"),),
    "bundle": (("for monai.bundle", "bundle tracetrans --out tracetrans_bundle"),),
    "evaluate": (
        ("on the test subjects", "evaluate runs/tracetrans dataset"),
        ("two runs in one table", "evaluate runs/a dataset --beside runs/b --out compared"),
    ),
    "traceability": (("two runs and the controls", "traceability runs/a runs/b --out traceability"),),
    "bench": (
        ("the demo, in minutes", "bench postop --study short --out demo_out"),
        ("one study of another task", "bench misaligned --study noise --setting full --out bench_out"),
    ),
    "reproduce": (
        ("papers, data and tables", "reproduce"),
        ("rows and hours, nothing trained", "reproduce reggan --data brats2018 --table 2 --plan"),
    ),
    "translate": (
        ("one scan", "translate runs/tracetrans scan.nii.gz --out scan_trace"),
        ("a folder, four at once", "translate runs/tracetrans scans --out traces --workers 4"),
    ),
    "report": (
        ("two traces on one page", "report scan_trace other_trace --out report.html"),
        ("an evaluated run, failures first", "report runs/tracetrans --out report.pdf"),
    ),
    "certify": (
        ("a trace alone", "certify scan_trace"),
        ("and query the method again", "certify scan_trace --run runs/tracetrans --input scan.nii.gz"),
    ),
    "calibrate": (("how often certificates are right", "calibrate certificate --cases 20 --out table.md"),),
    "register": (
        ("two scans", "register moving.nii.gz fixed.nii.gz --out trace"),
        ("a lesion to leave out", "register healthy.nii.gz patient.nii.gz --mask lesion.nii.gz --out trace"),
        ("many to one", "register images template.nii.gz --out atlas --workers 4"),
    ),
    "apply": (
        ("labels", "apply trace labels.nii.gz --as labels --out moved.nii.gz"),
        ("points of the target, to the source", "apply trace points.csv --as points --inverse --out points_source.csv"),
    ),
    "convert": (
        ("for ANTs", "convert trace --to ants --out for_ants"),
        (
            "from one program to another",
            "convert warp.nii.gz --format fsl --source m.nii --target f.nii --to itk --out x",
        ),
    ),
    "trace": (("an image translated by any program", "trace before.nii.gz translated.nii.gz --out traced"),),
    "landmarks": (("error in mm", "landmarks source.csv target.csv --transform trace --out landmarks"),),
    "export": (("for 3D Slicer", "export trace --format slicer --out for_slicer"),),
    "import": (("a field from elastix", "import t.txt --source moving.nii.gz --target fixed.nii.gz --out trace"),),
    "export-model": (("a network as one ONNX file", "export-model runs/tracetrans --out tracetrans.onnx"),),
    "card": (("a model to share", "card runs/tracetrans --license cc-by-4.0 --out tracetrans_model"),),
    "dicom": (("as DICOM series and registrations", "dicom trace series --out dicom_out"),),
    "bids": (("traces of a BIDS data set", "bids traces/sub-01_T1w traces/sub-02_T1w --out derivatives/medtrace"),),
    "slicer-modules": (("for 3D Slicer's module path", "slicer-modules --out slicer_modules"),),
    "runs": (
        ("all in runs/", "runs"),
        ("how two differ", "runs runs/a runs/b --compare"),
    ),
    "demo": (("two scans, two traces, one page", "demo --out medtrace_demo"),),
    "doctor": (
        ("devices, versions, speed", "doctor"),
        ("compile once, in a container or on a cluster", "doctor --compile"),
    ),
}
"""Command → (what it does, the line behind `medtrace`)."""


def help_width() -> int:
    """Columns of help: those of the terminal, at most `WIDTH`."""
    return min(WIDTH, max(50, shutil.get_terminal_size((80, 24)).columns))


class HelpedCommand(TyperCommand):
    """A command whose help lists its own options first, then the common ones, then examples."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, options, and output options."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": [], "Output": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            if parameter.param_type_name == "argument":
                sections["Arguments"].append(record)
            else:
                sections["Output" if parameter.name in COMMON else "Options"].append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Examples."""
        examples = EXAMPLES.get(self.name or "", ())
        if not examples:
            return
        with formatter.section("Examples"):
            for what, line in examples:
                formatter.write(f"{'':{formatter.current_indent}}# {what}\n")
                formatter.write(f"{'':{formatter.current_indent}}medtrace {line}\n")


def write_groups(commands: Mapping[str, Any], formatter: Any) -> None:
    """Write commands under their headings, each with the full first sentence of its description."""
    named = [name for group in GROUPS.values() for name in group]
    more = tuple(name for name in commands if name not in named)
    for heading, names in (*GROUPS.items(), ("More", more)):
        rows = [(name, _first_line(commands[name].help or "")) for name in names if name in commands]
        if rows:
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(12), text) for name, text in rows])


def _first_line(text: str) -> str:
    return " ".join(text.strip().partition("\n\n")[0].split())
