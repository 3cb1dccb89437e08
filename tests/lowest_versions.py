"""The lowest versions that setup.cfg allows, as constraints for pip in place of constraints.txt.

    python tests/lowest_versions.py [EXTRA ...]

With extras, theirs as well.
"""

import configparser
import re
import sys
from collections.abc import Sequence
from pathlib import Path


def lowest(setup: str, extras: Sequence[str] = ()) -> list[str]:
    """One `name==version` for each requirement with a lower bound."""
    parser = configparser.ConfigParser()
    parser.read_string(setup)
    asked = [parser["options"]["install_requires"], *(parser["options.extras_require"][extra] for extra in extras)]
    result = []
    for line in "\n".join(asked).split("\n"):
        match = re.match(r"([\w.\[\]-]+)>=([\w.]+)", line.strip())
        if match:
            result.append(f"{match[1]}=={match[2]}")
    return result


if __name__ == "__main__":
    print("\n".join(lowest((Path(__file__).resolve().parents[1] / "setup.cfg").read_text(), sys.argv[1:])))
