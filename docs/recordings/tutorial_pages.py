"""Run the tutorials and write them, with their output and pictures, as pages of this documentation.

python docs/recordings/tutorial_pages.py tutorials/06_register.ipynb

Without arguments all of them. Needs nbclient and nbconvert (`pip install '.[test]'`).
"""

import argparse
import io
import os
import re
import resource
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "tutorials"
COLORS = 192
"""Of a picture's palette: a third of the file's size, and no difference that an eye sees."""


def page_of(notebook: nbformat.NotebookNode, name: str, ran: str) -> tuple[str, dict[str, bytes]]:
    """The page of a notebook, and its pictures by their file's name.

    Args:
        notebook: executed, or without outputs.
        name: of its file, without the ending.
        ran: a line on how it was run.
    """
    exporter = MarkdownExporter()
    text, resources = exporter.from_notebook_node(notebook, {"output_files_dir": name, "unique_key": name})
    text = text.replace("```python\n", "```{code-block} python\n")  # run here, not by the tests of pages
    text = re.sub(r"!\[png\]\(", f"![What the code above draws]({''}", text)
    text = text.replace("](../docs/", "](../")
    heading, _, rest = text.strip().partition("\n")
    pictures = {Path(path).name: content for path, content in resources["outputs"].items()}
    note = f"*{ran} The notebook is `tutorials/{name}.ipynb`.*"
    return f"{heading}\n\n{note}\n{rest.rstrip()}\n", pictures


def executed(path: Path) -> tuple[nbformat.NotebookNode, float]:
    """A notebook after it ran, and the processor seconds that it took."""
    notebook = nbformat.read(path, as_version=4)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYTHONPATH"] = str(ROOT)
        metadata = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=1800, startup_timeout=300, kernel_name="python3", resources=metadata).execute()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return without_bars(notebook), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def without_bars(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without what went to standard error: progress, and nothing that a reader looks for."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    return notebook


def smaller(png: bytes) -> bytes:
    """A picture with a palette."""
    stream = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(COLORS).save(stream, format="png", optimize=True)
    return stream.getvalue()


def main() -> None:
    """Parse, run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", type=Path, nargs="*", help="by default all")
    arguments = parser.parse_args()
    for path in arguments.notebooks or sorted((ROOT / "tutorials").glob("*.ipynb")):
        notebook, seconds = executed(path)
        threads = os.environ.get("OMP_NUM_THREADS", "all")
        ran = f"Run in {seconds:.0f} processor seconds, without a GPU (OMP_NUM_THREADS: {threads})."
        text, pictures = page_of(notebook, path.stem, ran)
        folder = PAGES / path.stem
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.png"):
            old.unlink()
        for name, content in pictures.items():
            (folder / name).write_bytes(smaller(content))
        (PAGES / f"{path.stem}.md").write_text(text, encoding="utf-8")
        print(f"{path.stem}: {seconds:.0f} s, {len(pictures)} pictures")


if __name__ == "__main__":
    main()
