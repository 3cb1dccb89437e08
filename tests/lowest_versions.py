"""The lowest versions that setup.cfg allows, as constraints for pip in place of constraints.txt."""

import configparser
import re
from pathlib import Path


def lowest(setup: str) -> list[str]:
    """One `name==version` for each requirement with a lower bound."""
    parser = configparser.ConfigParser()
    parser.read_string(setup)
    result = []
    for line in parser["options"]["install_requires"].split("\n"):
        match = re.match(r"([\w.\[\]-]+)>=([\w.]+)", line.strip())
        if match:
            result.append(f"{match[1]}=={match[2]}")
    return result


if __name__ == "__main__":
    print("\n".join(lowest((Path(__file__).resolve().parents[1] / "setup.cfg").read_text())))
