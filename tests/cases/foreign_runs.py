"""Bundles and run folders from elsewhere whose configuration would run code.

    python -m tests.cases.foreign_runs OUT --run RUN --bundle BUNDLE [--only CASE]

RUN is a finished run (`medtrace train tracetrans --smoke --out RUN`), BUNDLE the bundle of that training (`medtrace bundle tracetrans
--preset tracebench --preset smoke --out BUNDLE`). Every case is a changed copy of the bundle, OUT/CASE/bundle, and a folder OUT/CASE/run
that has the same configuration as its `config.yaml`, as an early version left it, and no `run.json`. Beside them lies a harmless
`.pdbrc` that creates the file MARKER when a debugger starts in OUT/CASE. Use one from there, with the case's own command:

    cd OUT/CASE && medtrace train bundle --out trained --device cpu < /dev/null
    cd OUT/CASE && medtrace translate run image.nii.gz --out trace < /dev/null

Right, for each that is to be refused: exit code 1 with one line that names the configuration and the entry, and no file MARKER. A run
folder is refused because of its age, whatever its configuration says. Nothing here does more than create that file.
"""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml

from tests.cases.common import case, grid_points, main

MARKER = "MARKER"
MAKE_MARKER = f"open({MARKER!r}, 'w').close()"
LATE_MODULES = ("networkx", "jinja2", "markupsafe")  # what torch.compile imports


def options(parser):
    parser.add_argument("--run", type=Path, required=True, help="a finished run folder")
    parser.add_argument("--bundle", type=Path, required=True, help="the bundle of its training")


TRAIN = ["train", "bundle", "--out", "trained", "--device", "cpu"]
TRANSLATE = ["translate", "run", "image.nii.gz", "--out", "trace", "--no-report", "--device", "cpu"]
RESUME = ["train", "tracetrans", "--resume", "--out", "run", "--device", "cpu"]


def write(folder, options, change=None, rewrite=None, command=TRAIN, names="train.yaml", accept="refuse"):
    """A changed copy of the bundle, a run of an early version with its configuration, an image, and the debugger's file.

    `change` is given the configuration as a mapping, `rewrite` its text; `names` are what the refusal has to name.
    """
    shutil.copytree(options.bundle, folder / "bundle")
    path = folder / "bundle" / "configs" / "train.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if change is not None:
        change(config)
    text = yaml.safe_dump(config, sort_keys=False)
    if rewrite is not None:
        changed = rewrite(text)
        assert changed != text, "the case's text is not in the configuration"
        text = changed
    path.write_text(text, encoding="utf-8")
    shutil.copytree(options.run, folder / "run", ignore=shutil.ignore_patterns("tensorboard", "evaluation", "run.json"))
    (folder / "run" / "config.yaml").write_text(text, encoding="utf-8")
    (folder / ".pdbrc").write_text(f"!{MAKE_MARKER}\nc\n", encoding="utf-8")
    shape = (24, 24, 6)
    points = grid_points(shape, np.diag([2.0, 2.0, 3.0, 1.0]))
    head = 800 * np.exp(-((points - points.mean((0, 1, 2))) ** 2).sum(-1) / 200)
    nib.save(nib.Nifti1Image(head.astype(np.float32), np.diag([2.0, 2.0, 3.0, 1.0])), folder / "image.nii.gz")
    return {
        "entry": command[0],
        "input": "bundle",
        "accept": [accept],
        "must_not_exist": MARKER,
        "names": [names] if isinstance(names, str) else list(names),
        "command": command,
        "early": {"input": "run", "accept": ["refuse"], "commands": [TRANSLATE, RESUME]},
    }


def metadata(folder, **entries):
    """Change the metadata of the case's bundle."""
    path = folder / "bundle" / "configs" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | entries), encoding="utf-8")


DATASET = "\n    _target_: medtrace.data.DeterministicDataset\n"


def in_dataset(line):
    """Put a line before the first of the training's data set."""
    return lambda text: text.replace(DATASET, f"\n    {line}{DATASET}")


@case
def mode_debug(folder, options):
    """`_mode_: debug` under the data set: MONAI runs the component under pdb, which reads .pdbrc of the working directory.
    Reports: none
    Before: not seen by the check of foreign code; MARKER is created, the image is translated, exit code 0
    Right: refused before anything is built: `_mode_` is code; no MARKER
    """
    return write(folder, options, lambda config: config["train"]["dataset"].update(_mode_="debug"))


@case
def mode_debug_nested(folder, options):
    """`_mode_: debug` under the evaluator.
    Reports: none
    Before: MARKER is created
    Right: refused; no MARKER
    """
    return write(folder, options, lambda config: config["validate"]["evaluator"].update(_mode_="debug"))


@case
def mode_debug_written_as_an_id(folder, options):
    """The same as a flat id: a top-level key `train#dataset#_mode_`.
    Reports: none
    Before: the entry passes unnoticed, the image is translated; MONAI leaves the key as it is, so no MARKER
    Right: refused: an id in a key may be code
    """
    return write(folder, options, lambda config: config.update({"train#dataset#_mode_": "debug"}))


@case
def mode_callable(folder, options):
    """`_mode_: callable` under the data set: a partial instead of an object.
    Reports: none
    Before: "its networks cannot be made ('functools.partial' object has no attribute ...)"
    Right: refused as code, with the entry's name
    """
    return write(folder, options, lambda config: config["train"]["dataset"].update(_mode_="callable"))


@case
def expression(folder, options):
    """A plain value replaced by an expression: alpha is `$` and Python, a control.
    Reports: none
    Before: refused: "would run code that medtrace does not ship"; no MARKER
    Right: that
    """
    return write(folder, options, lambda config: config["settings"].update(alpha=f"${MAKE_MARKER} or 0.5"))


@case
def foreign_target(folder, options):
    """Another callable: `_target_: builtins.open` in place of a number, a control.
    Reports: none
    Before: refused; no MARKER
    Right: that
    """
    return write(
        folder,
        options,
        lambda config: config["settings"].update(
            smoothness_weight={"_target_": "builtins.open", "file": MARKER, "mode": "w"}
        ),
    )


@case
def mode_debug_in_a_list(folder, options):
    """`_mode_: debug` under a handler, which a resumed training builds.
    Reports: none
    Before: MARKER is created when the training is resumed
    Right: refused, naming the handler's place
    """
    return write(
        folder,
        options,
        lambda config: config["train"]["handlers"][0].update(_mode_="debug"),
        command=[*TRAIN, "--resume"],
        names="train#handlers#0#_mode_",
    )


@case
def mode_debug_with_blanks(folder, options):
    """The mode with blanks around it, which MONAI strips.
    Reports: none
    Before: MARKER is created
    Right: refused
    """
    return write(
        folder,
        options,
        lambda config: config["train"]["dataset"].update(_mode_="  debug "),
        names="train#dataset#_mode_",
    )


@case
def mode_by_reference(folder, options):
    """`_mode_: '@how'`, and `how: debug` at the top.
    Reports: none
    Before: MARKER is created
    Right: refused, naming train#dataset#_mode_
    """
    return write(
        folder,
        options,
        lambda config: (config["train"]["dataset"].update(_mode_="@how"), config.update(how="debug")),
        names="train#dataset#_mode_",
    )


@case
def mode_by_relative_reference(folder, options):
    """`_mode_: '@##how'`: the same by an id that is relative to where it stands.
    Reports: none
    Before: MARKER is created
    Right: refused
    """
    return write(
        folder,
        options,
        lambda config: (config["train"]["dataset"].update(_mode_="@##how"), config.update(how="debug")),
        names="train#dataset#_mode_",
    )


@case
def mode_by_merge(folder, options):
    """`<<: *how` under the data set takes in `_mode_: debug` from an entry with the anchor `how`.
    Reports: none
    Before: MARKER is created
    Right: refused, naming the entry that is merged
    """
    return write(
        folder,
        options,
        rewrite=lambda text: "how: &how {_mode_: debug}\n" + in_dataset("<<: *how")(text),
        names=("train#dataset#<<", "_mode_"),
    )


@case
def mode_by_merge_of_several(folder, options):
    """The same in a list of merges, one of them harmless.
    Reports: none
    Before: MARKER is created
    Right: refused
    """
    return write(
        folder,
        options,
        rewrite=lambda text: "a: &a {_desc_: text}\nb: &b {_mode_: debug}\n" + in_dataset("<<: [*a, *b]")(text),
        names=("train#dataset#<<", "_mode_"),
    )


@case
def mode_by_alias(folder, options):
    """`_mode_: *how`: the value is an alias of another entry's.
    Reports: none
    Before: MARKER is created
    Right: refused
    """
    return write(
        folder,
        options,
        rewrite=lambda text: "how: &how debug\n" + in_dataset("_mode_: *how")(text),
        names="train#dataset#_mode_",
    )


@case
def key_by_alias(folder, options):
    """`*how : debug`: the key itself is an alias of the text `_mode_`.
    Reports: none
    Before: MARKER is created
    Right: refused, naming train#dataset#_mode_
    """
    return write(
        folder,
        options,
        rewrite=lambda text: "how: &how _mode_\n" + in_dataset("*how : debug")(text),
        names="train#dataset#_mode_",
    )


@case
def key_with_escapes(folder, options):
    """The key `_mode_` written with escapes, `"\\x5fmode\\u005f"`, which no search of the text finds.
    Reports: none
    Before: MARKER is created
    Right: refused, naming train#dataset#_mode_
    """
    return write(
        folder,
        options,
        rewrite=in_dataset('"\\x5fmode\\u005f": debug'),
        names="train#dataset#_mode_",
    )


@case
def argument_debug(folder, options):
    """The argument `_debug_: true`, which MONAI takes off before it calls a component: a breakpoint.
    Reports: none
    Before: MARKER is created
    Right: refused: a key with an underscore that is not known to be data
    """
    return write(
        folder,
        options,
        lambda config: config["train"]["dataset"].update(_debug_=True),
        names="train#dataset#_debug_",
    )


@case
def requires_another_entry(folder, options):
    """`_requires_` of the data set names a shipped handler, which is built and makes a folder where `run_dir` says.
    Reports: none
    Before: the folder MARKER is made by a translation
    Right: refused, naming train#dataset#_requires_
    """
    return write(
        folder,
        options,
        lambda config: config["train"]["dataset"].update(_requires_="@train#handlers#3"),
        names="train#dataset#_requires_",
    )


@case
def reference_to_code(folder, options):
    """A plain value replaced by a reference to a shipped handler elsewhere in the file.
    Reports: none
    Before: the folder MARKER is made by a translation
    Right: refused, naming the reference: the code of one place is not that of another
    """
    return write(
        folder,
        options,
        lambda config: config["settings"].update(gamma="@train#handlers#3"),
        names="settings#gamma: @train#handlers#3",
    )


@case
def reference_to_a_list_with_code(folder, options):
    """A reference to the list of the handlers, written with MONAI's newer separator.
    Reports: none
    Before: MONAI begins to build them ("Tensor.item() cannot be called on meta tensors"); no MARKER
    Right: refused
    """
    return write(
        folder,
        options,
        lambda config: config["settings"].update(gamma="@train::handlers"),
        names="settings#gamma: @train::handlers",
    )


@case
def reference_to_everything(folder, options):
    """`@` alone: a reference to the whole configuration.
    Reports: none
    Before: MONAI tries to build all of it ("detected circular references")
    Right: refused, naming the entry
    """
    return write(folder, options, lambda config: config["settings"].update(channels="@"), names="settings#channels: @")


@case
def relative_reference_to_code(folder, options):
    """The same as a relative id from within the settings: `@###train#handlers#3` in a list.
    Reports: none
    Before: the folder MARKER is made by a translation
    Right: refused
    """
    return write(
        folder,
        options,
        lambda config: config["settings"].update(gamma=["@###train#handlers#3"]),
        names="settings#gamma#0",
    )


@case
def alias_of_code(folder, options):
    """An alias of a shipped handler in the place of a plain value.
    Reports: none
    Before: refused (the target stands at another place), a control
    Right: that
    """
    return write(
        folder,
        options,
        rewrite=lambda text: text.replace(
            "gamma: 0.25", "gamma: &handler {_target_: medtrace.engines.ProgressBar}"
        ).replace("\n  alpha: 0.5", "\n  alpha: {_target_: medtrace.engines.ProgressBar}"),
        names="settings#gamma#_target_",
    )


@case
def macro_of_its_own(folder, options):
    """`%how`: a copy of another entry of the same file, in the place of a plain value.
    Reports: none
    Before: refused, a control
    Right: that
    """
    return write(
        folder,
        options,
        lambda config: (config["settings"].update(gamma="%how"), config.update(how=0.25)),
        names="settings#gamma: %how",
    )


@case
def id_before_the_entry(folder, options):
    """A key `settings::alpha` before the settings themselves: MONAI takes the first of two entries with one id.
    Reports: none
    Before: the folder MARKER is made by a translation: instead of the shipped expression a handler is built
    Right: refused, naming the key
    """

    def change(config):
        rest = dict(config)
        config.clear()
        config["settings::alpha"] = "@train#handlers#3"
        config.update(rest)

    return write(folder, options, change, names="settings#alpha: @train#handlers#3")


@case
def id_in_a_resumed_run(folder, options):
    """The flat id `train#dataset#_mode_`, where a training is resumed: MONAI read the file itself there, and set the entry.
    Reports: none
    Before: MARKER is created
    Right: refused, naming train#dataset#_mode_
    """
    return write(
        folder,
        options,
        lambda config: config.update({"train#dataset#_mode_": "debug"}),
        command=[*TRAIN, "--resume"],
        names="train#dataset#_mode_",
    )


@case
def merging_key_in_a_resumed_run(folder, options):
    """A key `+train`, which merges `_mode_: debug` into the training, where it is resumed.
    Reports: none
    Before: MARKER is created
    Right: refused
    """
    return write(
        folder,
        options,
        lambda config: config.update({"+train": {"dataset": {"_mode_": "debug"}}}),
        command=[*TRAIN, "--resume"],
        names="_mode_: debug",
    )


@case
def expression_as_a_key(folder, options):
    """A key that begins with `$`.
    Reports: none
    Before: "got an unexpected keyword argument"; no MARKER
    Right: refused, naming the key
    """
    return write(
        folder,
        options,
        lambda config: config["train"]["dataset"].update({f"${MAKE_MARKER}": 1}),
        names=f"train#dataset#${MAKE_MARKER}",
    )


@case
def number_as_a_key(folder, options):
    """A key that is a number, and so has the id of a text or of a place in a list.
    Reports: none
    Before: "its networks cannot be made (keywords must be strings)"
    Right: refused, naming the key
    """
    return write(
        folder, options, lambda config: config["settings"]["norm"][1].update({0: 1}), names="settings#norm#1#0"
    )


@case
def wide_letters_in_a_key(folder, options):
    """`_mode_` in full-width underscores, which look and normalize like the plain ones.
    Reports: none
    Before: "got an unexpected keyword argument"; no MARKER
    Right: refused
    """
    return write(
        folder,
        options,
        lambda config: config["train"]["dataset"].update({"\uff3fmode\uff3f": "debug"}),
        names="train#dataset#\uff3fmode\uff3f",
    )


@case
def twice_the_same_key(folder, options):
    """JSON whose settings have `alpha` twice, first as the number that was trained with.
    Reports: none
    Before: the last one is taken in silence: 0.9 for 0.5
    Right: refused, naming the key
    """

    def rewrite(text):
        config = json.dumps(yaml.safe_load(text))
        return config.replace('"alpha": 0.5', '"alpha": 0.5, "alpha": 0.9')

    return write(folder, options, rewrite=rewrite, names="settings#alpha")


@case
def tag_of_python(folder, options):
    """A YAML tag that makes an object of Python, a control.
    Reports: none
    Before: refused: "could not determine a constructor"; no MARKER
    Right: that
    """
    return write(
        folder,
        options,
        rewrite=lambda text: text + f"how: !!python/object/apply:eval [{json.dumps(MAKE_MARKER)}]\n",
        names="python/object/apply:eval",
    )


@case
def code_in_a_description(folder, options):
    """`_desc_`, which is free text, holds an expression.
    Reports: none
    Before: refused, a control
    Right: that
    """
    return write(
        folder,
        options,
        lambda config: config["train"]["dataset"].update(_desc_=f"${MAKE_MARKER}"),
        names="train#dataset#_desc_",
    )


@case
def import_anywhere(folder, options):
    """`$import antigravity` in an entry that nothing refers to: MONAI runs every import of a file.
    Reports: none
    Before: refused, a control
    Right: that
    """
    return write(folder, options, lambda config: config.update(notes=["$import this"]), names="notes#0: $import this")


@case
def reader_by_name(folder, options):
    """A bundle whose `train.yaml` has the entries of `inference.yaml`, and a plain value there names a function.
    Reports: none
    Before: `reader: pdb.set_trace`, which MONAI looked up and called: MARKER is created when the training is resumed
    Right: refused: no training takes in these entries
    """

    def change(config):
        path = Path(options.bundle) / "configs" / "inference.yaml"
        inference = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name in ("preprocessing", "dataset", "dataloader", "handlers", "evaluator", "run"):
            config[name] = inference[name]
        config["imports"] += ["$import glob", "$import os"]
        for name in ("images", "stems", "keys", "ckpt_path", "output_dir", "overwrite"):
            config[name] = inference[name]
        config["preprocessing"]["transforms"][0]["reader"] = "pdb.set_trace"

    return write(folder, options, change, names="preprocessing#_target_")


@case
def module_beside_the_configuration(folder, options):
    """A bundle with a file named as a library's module that `compile: true` imports while the training runs.
    Reports: none
    Before: MONAI puts the folder at the front of Python's path: MARKER is created
    Right: the training runs, and nothing of the folder is imported
    """
    expected = write(
        folder, options, lambda config: config["settings"]["training"].update(compile=True), accept="read", names=()
    )
    for name in LATE_MODULES:
        for place in (folder / "bundle", folder / "bundle" / "configs", folder / "run"):
            (place / f"{name}.py").write_text(f"{MAKE_MARKER}\nraise ImportError\n", encoding="utf-8")
    return expected


@case
def metadata_of_a_bundle(folder, options):
    """A bundle whose `metadata.json` holds an expression, and whose settings refer to it.
    Reports: none
    Before: MARKER is created: neither was checked
    Right: refused, naming the entry
    """
    expected = write(
        folder,
        options,
        lambda config: config["settings"].update(alpha="@_meta_#how"),
        names=("train.yaml", "settings#alpha: @_meta_#how"),
    )
    metadata(folder, how=f"${MAKE_MARKER} or 0.5")
    return expected


@case
def import_in_the_metadata(folder, options):
    """A bundle whose `metadata.json` holds an import that nothing refers to.
    Reports: none
    Before: imported; the training runs
    Right: refused, naming metadata.json
    """
    expected = write(folder, options, names=("metadata.json", "_meta_#how: $import this"))
    metadata(folder, how="$import this")
    return expected


@case
def preset_from_elsewhere(folder, options):
    """A preset named by the path of a file, as overlays of configurations once were.
    Reports: none
    Before: as an overlay: MARKER is created
    Right: refused: a preset is a name of the method's own; no file is looked for
    """
    text = f"settings#gamma: ${MAKE_MARKER} or 1.0\n"
    expected = write(
        folder,
        options,
        command=["train", "tracetrans", "--preset", "./settings", "--out", "trained", "--device", "cpu"],
        names=("preset", "'./settings'"),
    )
    for name in ("settings", "settings.yaml"):
        (folder / name).write_text(text, encoding="utf-8")
    return {**expected, "says": "preset: expected one of"}


@case
def overlay_merging_a_mode(folder, options):
    """A further configuration of a bundle merges `_mode_: debug` into the data set by a key `+train`.
    Reports: none
    Before: MARKER is created
    Right: refused, naming the file
    """
    expected = write(folder, options, names=("more.yaml", "_mode_: debug"))
    text = "+train: {dataset: {_mode_: debug}}\n"
    (folder / "bundle" / "configs" / "more.yaml").write_text(text, encoding="utf-8")
    return expected


@case
def whole_bundle_elsewhere(folder, options):
    """A copy of a shipped bundle in its own folder, with another weight, a control.
    Reports: none
    Before: trained
    Right: that
    """
    return write(folder, options, lambda config: config["settings"].update(gamma=0.75), accept="read", names=())


@case
def plain_values(folder, options):
    """Data only: another weight, a description, a switch that is off, a reference and an alias to a number, a control.
    Reports: none
    Before: read
    Right: that
    """
    return write(
        folder,
        options,
        lambda config: (
            config["train"]["dataset"].update(_desc_="trained in the autumn", _disabled_=False),
            config["settings"].update(alpha=0.3, gamma="@how#0"),
            config.update(how=[0.5]),
        ),
        lambda text: text.replace("max_epochs: 2", "max_epochs: &two 2").replace(
            "\n    batch_size: 2", "\n    batch_size: *two"
        ),
        accept="read",
        names=(),
    )


if __name__ == "__main__":
    main(__doc__, options)
