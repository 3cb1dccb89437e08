"""The files of a bundle, read once and checked, as MONAI's workflow of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.utils import merge_kv

from medtrace.guard.configurations import BUNDLES, check_code, code_is_allowed, read_config

METADATA = "metadata.json"
_META = "_meta_"


def bundle_folder(name: str) -> Path:
    """Folder of the bundle called `name`, or of the folder of a bundle made elsewhere.

    Raises:
        ValueError: if there is none, or it runs code that medtrace does not ship and that is not allowed (see
            `medtrace.guard.configurations`).
    """
    if (Path(name) / "configs" / "train.yaml").is_file():
        for file in sorted((Path(name) / "configs").glob("*.yaml")):
            check_code(read_config(file), file, training=False)
        metadata = Path(name) / "configs" / METADATA
        if metadata.is_file():
            check_code({_META: read_config(metadata)}, metadata)
        return Path(name)
    names = sorted(path.name for path in BUNDLES.iterdir() if (path / "configs").is_dir())
    if name not in names:
        raise ValueError(f"name: expected one of {', '.join(names)}, received {name!r}")
    return BUNDLES / name


def overlay_file(bundle: Path, overlay: str) -> Path:
    """The file of an overlay of a bundle, or by its path one made elsewhere, without the suffix.

    Raises:
        ValueError: if there is none, or it was made elsewhere and runs code that medtrace does not ship.
    """
    path = bundle / "configs" / f"{overlay}.yaml"
    if not path.is_file():
        names = sorted(file.stem for file in (bundle / "configs").glob("*.yaml"))
        raise ValueError(f"overlays: expected some of {', '.join(names)}, received {overlay!r}")
    if path.resolve().parent != (bundle / "configs").resolve():
        check_code(read_config(path), path, training=False)
    return path


class TrainingWorkflow(ConfigWorkflow):
    """MONAI's workflow of configurations that are read and checked here, and that MONAI does not read again.

    Two readers of one file could take it differently, so what was checked is what is built. MONAI also puts a bundle's
    folder at the front of Python's path, where a file of it could take a library's name: here only if the user allows
    foreign code.

    Args:
        files: the configurations, each merged into those before.
        bundle: the folder whose metadata go along.
        values: entries to set, by MONAI's ids.

    Raises:
        ValueError: if a file is no configuration, or all together would run code that medtrace does not ship and that
            is not allowed.
    """

    def __init__(self, files: Sequence[Path], bundle: Path, values: Mapping[str, Any]) -> None:
        metadata = bundle / "configs" / METADATA
        parser = ConfigParser(config={})
        for file in files:
            for key, value in read_config(file).items():
                merge_kv(parser, key, value)
        config = {_META: read_config(metadata) if metadata.is_file() else {}, **parser.get()}
        if not all(_is_shipped(file) for file in (*files, metadata)) and not code_is_allowed():
            check_code(config, " with ".join(map(str, files)), allow=False)
        super().__init__(config_file=None, meta_file=str(metadata), logging_file=False, workflow_type="train")
        self.config_root_path = bundle / "configs"
        self.parser.set(config)
        self.parser.update(dict(values))

    def run(self) -> list[Any]:
        """Run the training.

        Raises:
            ValueError: if the configuration says nothing of one.
        """
        if code_is_allowed():
            result: list[Any] = super().run()
            return result
        if self.run_id not in self.parser:
            raise ValueError(f"{self.run_id}: expected the entry that trains, received none; take a whole file")
        expressions: list[Any] = self._run_expr(id=self.run_id)
        return expressions


def _is_shipped(file: Path) -> bool:
    return file.resolve().is_relative_to(BUNDLES.resolve())
