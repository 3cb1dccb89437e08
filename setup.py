"""The version from the repository's tag, and a README whose links lead somewhere; all else stands in setup.cfg."""

from __future__ import annotations

import configparser
import re
import subprocess
from pathlib import Path

from setuptools import setup

TAG = re.compile(r"v(\d+(?:\.\d+)*)-(\d+)-(g[0-9a-f]+)")
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://)([^)\s#]*)(#[^)\s]*)?\)")


def version_of(root: Path) -> str | None:
    """The version that the nearest tag `v1.2.3` gives; None, so that setup.cfg's holds, where there is none.

    On the tag's commit it is 1.2.3, which has to be that of `medtrace/__init__.py`; four commits further
    1.2.3.post4+gabc1234, which no package index takes. Beside a PKG-INFO, in an unpacked sdist, it is the one there.
    """
    told = root / "PKG-INFO"
    if told.is_file():
        found = re.search(r"^Version: (.+)$", told.read_text(encoding="utf-8"), re.MULTILINE)
        return found[1] if found else None
    place = _git(root, "rev-parse", "--show-toplevel")
    match = TAG.fullmatch(_git(root, "describe", "--tags", "--long", "--match", "v[0-9]*"))
    if match is None or Path(place).resolve() != root.resolve():
        return None
    version, further, commit = match.groups()
    if int(further):
        return f"{version}.post{further}+{commit}"
    own = re.search(r'^__version__ = "(.+)"$', (root / "medtrace" / "__init__.py").read_text(encoding="utf-8"), re.M)
    if own is None or own[1] != version:
        raise SystemExit(f"tag v{version}: expected the version of medtrace/__init__.py, {own and own[1]}; change one")
    return version


def readable(text: str, address: str) -> str:
    """A README for a package index: links into the repository lead to its address, or, without one, become text."""

    def link(match: re.Match[str]) -> str:
        picture, words, path, place = match.groups()
        if not address:
            return words
        kind = "raw" if picture else "blob"
        return f"{picture}[{words}]({address}/{kind}/main/{path}{place or ''})" if path else words

    return LINK.sub(link, text)


def _git(root: Path, *line: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *line], capture_output=True, text=True, check=False)
    except OSError:  # no git
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _own() -> dict[str, str]:
    root = Path(__file__).resolve().parent
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg", encoding="utf-8")
    text = (root / "README.md").read_text(encoding="utf-8")
    result = {"long_description": readable(text, config["metadata"].get("url", "").rstrip("/"))}
    version = version_of(root)
    return result if version is None else {**result, "version": version}


if __name__ == "__main__":
    setup(**_own())
