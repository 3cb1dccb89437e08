"""Draw the figure of the README: a TraceBench case with its true field.

python docs/figures/trace_of_truth.py docs/images/trace.png
"""

import argparse
from pathlib import Path

from medtrace.data.tracebench import TraceBench
from medtrace.report import save_figure, trace_figure
from medtrace.trace import Trace


def main() -> None:
    """Parse and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="PNG, PDF or SVG to write")
    parser.add_argument("--case", type=int, default=7, help="index of the TraceBench case")
    parser.add_argument("--size", type=int, default=144, help="pixels along either side")
    arguments = parser.parse_args()
    bench = TraceBench("postop", (arguments.size, arguments.size), cases=arguments.case + 1, split="test")
    case = bench[arguments.case]
    affine = case["source"].affine
    trace = Trace.build(
        case["source"],
        case["target"],
        case["ddf"],
        inverse_ddf=case["inverse_ddf"],
        affine=affine,
    )
    save_figure(trace_figure(trace, image_name="after surgery"), arguments.path, dpi=100)


if __name__ == "__main__":
    main()
