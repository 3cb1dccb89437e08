"""Run folders from elsewhere whose configuration would run code.

    python -m tests.cases.foreign_runs OUT --run RUN [--only CASE]

RUN is a finished run (`medtrace train tracetrans --smoke --out RUN`); every case is a changed copy, OUT/CASE/run, beside a harmless
`.pdbrc` that creates the file MARKER when a debugger starts in OUT/CASE. Use one from there, with the case's own command:

    cd OUT/CASE && medtrace translate run image.nii.gz --out trace < /dev/null

Right, for each that is to be refused: exit code 1 with one line that names the configuration and the entry, and no file MARKER.
Nothing here does more than create that file. A run folder without a configuration (`config.yaml`) cannot be attacked like this:
no case is written then.
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


TRANSLATE = ["translate", "run", "image.nii.gz", "--out", "trace", "--no-report", "--device", "cpu"]
RESUME = ["train", "tracetrans", "--resume", "--out", "run", "--device", "cpu"]


def write(folder, run, change=None, rewrite=None, command=TRANSLATE, names="config.yaml", accept="refuse"):
    """A changed copy of the run, an image, and the debugger's start file.

    `change` is given the configuration as a mapping, `rewrite` its text; `names` are what the refusal has to name.
    """
    shutil.copytree(run, folder / "run", ignore=shutil.ignore_patterns("tensorboard", "evaluation"))
    path = folder / "run" / "config.yaml"
    if not path.is_file():
        shutil.rmtree(folder / "run")
        return {"entry": "translate", "skipped": "the run has no config.yaml"}
    text = path.read_text(encoding="utf-8")
    if change is not None:
        config = yaml.safe_load(text)
        change(config)
        text = yaml.safe_dump(config, sort_keys=False)
    path.write_text(rewrite(text) if rewrite else text, encoding="utf-8")
    (folder / ".pdbrc").write_text(f"!{MAKE_MARKER}\nc\n", encoding="utf-8")
    shape = (24, 24, 6)
    points = grid_points(shape, np.diag([2.0, 2.0, 3.0, 1.0]))
    head = 800 * np.exp(-((points - points.mean((0, 1, 2))) ** 2).sum(-1) / 200)
    nib.save(nib.Nifti1Image(head.astype(np.float32), np.diag([2.0, 2.0, 3.0, 1.0])), folder / "image.nii.gz")
    return {
        "entry": command[0],
        "input": "run",
        "accept": [accept],
        "must_not_exist": MARKER,
        "names": [names] if isinstance(names, str) else list(names),
        "command": command,
    }


def bundle(folder, run, train=lambda text: text, metadata=None, overlay=None):
    """A copy of the run's bundle in a folder of its own, whose files are changed."""
    expected = write(folder, run)
    if "skipped" in expected:
        return expected
    origin = Path(yaml.safe_load((folder / "run" / "config.yaml").read_text(encoding="utf-8"))["bundle_root"])
    shutil.rmtree(folder / "run")
    shutil.copytree(origin, folder / "bundle")
    configs = folder / "bundle" / "configs"
    (configs / "train.yaml").write_text(train((configs / "train.yaml").read_text(encoding="utf-8")), encoding="utf-8")
    if metadata:
        content = json.loads((configs / "metadata.json").read_text(encoding="utf-8")) | metadata
        (configs / "metadata.json").write_text(json.dumps(content), encoding="utf-8")
    for name, text in (overlay or {}).items():
        (folder / name).write_text(text, encoding="utf-8")
    return {**expected, "entry": "train", "input": "bundle"}


def training(name, *options):
    return ["train", name, "--smoke", "--out", "trained", "--device", "cpu", *options]


@case
def mode_debug(folder, options):
    """`_mode_: debug` under the method: MONAI runs the component under pdb, which reads .pdbrc of the working directory.
    Reports: none
    Before: not seen by the check of foreign code; MARKER is created, the image is translated, exit code 0
    Right: refused before anything is built: `_mode_` is code; no MARKER
    """
    return write(folder, options.run, lambda config: config["method"].update(_mode_="debug"))


@case
def mode_debug_nested(folder, options):
    """`_mode_: debug` under the network, one level down.
    Reports: none
    Before: MARKER is created
    Right: refused; no MARKER
    """
    return write(folder, options.run, lambda config: config["network_def"].update(_mode_="debug"))


@case
def mode_debug_written_as_an_id(folder, options):
    """The same as a flat id: a top-level key `method#_mode_`.
    Reports: none
    Before: the entry passes unnoticed, the image is translated; MONAI leaves the key as it is, so no MARKER
    Right: refused: an id in a key may be code
    """
    return write(folder, options.run, lambda config: config.update({"method#_mode_": "debug"}))


@case
def mode_callable(folder, options):
    """`_mode_: callable` under the method: a partial instead of an object.
    Reports: none
    Before: "its networks cannot be made ('functools.partial' object has no attribute ...)"
    Right: refused as code, with the entry's name
    """
    return write(folder, options.run, lambda config: config["method"].update(_mode_="callable"))


@case
def expression(folder, options):
    """A plain value replaced by an expression: alpha is `$` and Python, a control.
    Reports: none
    Before: refused: "would run code that medtrace does not ship"; no MARKER
    Right: that
    """
    return write(folder, options.run, lambda config: config["method"].update(alpha=f"${MAKE_MARKER} or 0.5"))


@case
def foreign_target(folder, options):
    """Another callable: `_target_: builtins.open` in place of a number, a control.
    Reports: none
    Before: refused; no MARKER
    Right: that
    """
    return write(
        folder,
        options.run,
        lambda config: config["method"].update(
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
        options.run,
        lambda config: config["train"]["handlers"][0].update(_mode_="debug"),
        command=RESUME,
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
        options.run,
        lambda config: config["method"].update(_mode_="  debug "),
        names="method#_mode_",
    )


@case
def mode_by_reference(folder, options):
    """`_mode_: '@how'`, and `how: debug` at the top.
    Reports: none
    Before: MARKER is created
    Right: refused, naming method#_mode_
    """
    return write(
        folder,
        options.run,
        lambda config: (config["method"].update(_mode_="@how"), config.update(how="debug")),
        names="method#_mode_",
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
        options.run,
        lambda config: (config["method"].update(_mode_="@##how"), config.update(how="debug")),
        names="method#_mode_",
    )


@case
def mode_by_merge(folder, options):
    """`<<: *how` under the method takes in `_mode_: debug` from an entry with the anchor `how`.
    Reports: none
    Before: MARKER is created
    Right: refused, naming the entry that is merged
    """
    return write(
        folder,
        options.run,
        rewrite=lambda text: (
            "how: &how {_mode_: debug}\n" + text.replace("\nobjective:\n", "\nobjective:\n  <<: *how\n")
        ),
        names=("method#<<", "_mode_"),
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
        options.run,
        rewrite=lambda text: (
            "a: &a {_desc_: text}\nb: &b {_mode_: debug}\n"
            + text.replace("\nnetwork_def:\n", "\nnetwork_def:\n  <<: [*a, *b]\n")
        ),
        names=("network_def#<<", "_mode_"),
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
        options.run,
        rewrite=lambda text: "how: &how debug\n" + text.replace("\nobjective:\n", "\nobjective:\n  _mode_: *how\n"),
        names="method#_mode_",
    )


@case
def key_by_alias(folder, options):
    """`*how : debug`: the key itself is an alias of the text `_mode_`.
    Reports: none
    Before: MARKER is created
    Right: refused, naming method#_mode_
    """
    return write(
        folder,
        options.run,
        rewrite=lambda text: "how: &how _mode_\n" + text.replace("\nobjective:\n", "\nobjective:\n  *how : debug\n"),
        names="method#_mode_",
    )


@case
def key_with_escapes(folder, options):
    """The key `_mode_` written with escapes, `"\\x5fmode\\u005f"`, which no search of the text finds.
    Reports: none
    Before: MARKER is created
    Right: refused, naming method#_mode_
    """
    return write(
        folder,
        options.run,
        rewrite=lambda text: text.replace("\nobjective:\n", '\nobjective:\n  "\\x5fmode\\u005f": debug\n'),
        names="method#_mode_",
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
        options.run,
        lambda config: config["method"].update(_debug_=True),
        names="method#_debug_",
    )


@case
def requires_another_entry(folder, options):
    """`_requires_` of the method names a shipped handler, which is built and makes a folder where `run_dir` says.
    Reports: none
    Before: the folder MARKER is made by a translation
    Right: refused, naming method#_requires_
    """
    return write(
        folder,
        options.run,
        lambda config: (config["method"].update(_requires_="@train#handlers#2"), config.update(run_dir=MARKER)),
        names="method#_requires_",
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
        options.run,
        lambda config: (config["method"].update(gamma="@train#handlers#2"), config.update(run_dir=MARKER)),
        names="method#gamma: @train#handlers#2",
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
        options.run,
        lambda config: (config["method"].update(gamma="@train::handlers"), config.update(run_dir=MARKER)),
        names="method#gamma: @train::handlers",
    )


@case
def reference_to_everything(folder, options):
    """`@` alone: a reference to the whole configuration.
    Reports: none
    Before: MONAI tries to build all of it ("detected circular references")
    Right: refused, naming the entry
    """
    return write(
        folder, options.run, lambda config: config["network_def"].update(channels="@"), names="network_def#channels"
    )


@case
def relative_reference_to_code(folder, options):
    """The same as a relative id from within the method: `@###train#handlers#2` in a list.
    Reports: none
    Before: the folder MARKER is made by a translation
    Right: refused
    """
    return write(
        folder,
        options.run,
        lambda config: (config["method"].update(gamma=["@###train#handlers#2"]), config.update(run_dir=MARKER)),
        names="method#gamma#0",
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
        options.run,
        rewrite=lambda text: text.replace(
            "gamma: 0.25", "gamma: &handler {_target_: medtrace.engines.ProgressBar}"
        ).replace("alpha: 0.5", "alpha: {_target_: medtrace.engines.ProgressBar}"),
        names="method#gamma#_target_",
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
        options.run,
        lambda config: (config["method"].update(gamma="%how"), config.update(how=0.25)),
        names="method#gamma: %how",
    )


@case
def id_before_the_entry(folder, options):
    """A key `method::share_forwards` before the method itself: MONAI takes the first of two entries with one id.
    Reports: none
    Before: the folder MARKER is made by a translation: instead of the shipped expression a handler is built
    Right: refused, naming the key
    """

    def change(config):
        rest = dict(config)
        config.clear()
        config["method::share_forwards"] = "@train#handlers#2"
        config.update(rest, run_dir=MARKER)

    return write(folder, options.run, change, names="method#share_forwards: @train#handlers#2")


@case
def id_in_a_resumed_run(folder, options):
    """The flat id `method#_mode_`, in a run that is resumed: MONAI reads the file itself there, and sets the entry.
    Reports: none
    Before: MARKER is created
    Right: refused, naming method#_mode_
    """
    return write(
        folder,
        options.run,
        lambda config: config.update({"method#_mode_": "debug"}),
        command=RESUME,
        names="method#_mode_",
    )


@case
def merging_key_in_a_resumed_run(folder, options):
    """A key `+method` in a run that is resumed, which merges `_mode_: debug` into the method.
    Reports: none
    Before: MARKER is created
    Right: refused
    """
    return write(
        folder,
        options.run,
        lambda config: config.update({"+method": {"_mode_": "debug"}}),
        command=RESUME,
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
        options.run,
        lambda config: config["method"].update({f"${MAKE_MARKER}": 1}),
        names=f"method#${MAKE_MARKER}",
    )


@case
def number_as_a_key(folder, options):
    """A key that is a number, and so has the id of a text or of a place in a list.
    Reports: none
    Before: "its networks cannot be made (keywords must be strings)"
    Right: refused, naming the key
    """
    return write(folder, options.run, lambda config: config["norm"][1].update({0: 1}), names="norm#1#0")


@case
def wide_letters_in_a_key(folder, options):
    """`_mode_` in full-width underscores, which look and normalize like the plain ones.
    Reports: none
    Before: "got an unexpected keyword argument"; no MARKER
    Right: refused
    """
    return write(
        folder,
        options.run,
        lambda config: config["method"].update({"\uff3fmode\uff3f": "debug"}),
        names="method#",
    )


@case
def twice_the_same_key(folder, options):
    """JSON whose method has `alpha` twice, first as the number that was trained with.
    Reports: none
    Before: the last one is taken in silence: 0.9 for 0.5
    Right: refused, naming the key
    """

    def rewrite(text):
        config = json.dumps(yaml.safe_load(text))
        return config.replace('"alpha": 0.5', '"alpha": 0.5, "alpha": 0.9')

    return write(folder, options.run, rewrite=rewrite, names="method#alpha")


@case
def tag_of_python(folder, options):
    """A YAML tag that makes an object of Python, a control.
    Reports: none
    Before: refused: "could not determine a constructor"; no MARKER
    Right: that
    """
    return write(
        folder,
        options.run,
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
        options.run,
        lambda config: config["method"].update(_desc_=f"${MAKE_MARKER}"),
        names="method#_desc_",
    )


@case
def import_anywhere(folder, options):
    """`$import antigravity` in an entry that nothing refers to: MONAI runs every import of a file.
    Reports: none
    Before: refused, a control
    Right: that
    """
    return write(
        folder, options.run, lambda config: config.update(notes=["$import this"]), names="notes#0: $import this"
    )


@case
def reader_by_name(folder, options):
    """A run with the entries of `inference.yaml`, whose plain value `reader: pdb.set_trace` MONAI looks up and calls.
    Reports: none
    Before: MARKER is created when the training is resumed
    Right: refused: no training takes in these entries
    """

    def change(config):
        origin = Path(config["bundle_root"]) / "configs" / "inference.yaml"
        inference = yaml.safe_load(origin.read_text(encoding="utf-8"))
        for name in ("preprocessing", "dataset", "dataloader", "handlers", "evaluator", "run"):
            config[name] = inference[name]
        config["imports"] += ["$import glob", "$import os"]
        config.update(images=inference["images"], ckpt_path=inference["ckpt_path"], output_dir=inference["output_dir"])
        config["preprocessing"]["transforms"][0]["reader"] = "pdb.set_trace"

    return write(folder, options.run, change, command=RESUME, names="preprocessing#_target_")


@case
def module_beside_the_configuration(folder, options):
    """A run folder with a file named as a library's module that `compile: true` imports while a resumed training runs.
    Reports: none
    Before: MONAI puts the run folder at the front of Python's path: MARKER is created
    Right: the training runs, and nothing of the folder is imported
    """
    expected = write(
        folder, options.run, lambda config: config.update(compile=True), command=RESUME, accept="read", names=()
    )
    if "skipped" not in expected:
        for name in LATE_MODULES:
            (folder / "run" / f"{name}.py").write_text(f"{MAKE_MARKER}\nraise ImportError\n", encoding="utf-8")
    return expected


@case
def metadata_of_a_bundle(folder, options):
    """A bundle whose `metadata.json` holds an expression, and whose method refers to it.
    Reports: none
    Before: MARKER is created: neither was checked
    Right: refused, naming metadata.json
    """
    return bundle(
        folder,
        options.run,
        lambda text: text.replace("alpha: 0.5", 'alpha: "@_meta_#how"'),
        {"how": f"${MAKE_MARKER} or 0.5"},
    ) | {"command": training("bundle"), "names": ["train.yaml", "method#alpha: @_meta_#how"]}


@case
def import_in_the_metadata(folder, options):
    """A bundle whose `metadata.json` holds an import that nothing refers to.
    Reports: none
    Before: imported; the training runs
    Right: refused, naming metadata.json
    """
    return bundle(folder, options.run, metadata={"how": "$import this"}) | {
        "command": training("bundle"),
        "names": ["metadata.json", "_meta_#how: $import this"],
    }


@case
def overlay_from_elsewhere(folder, options):
    """An overlay named by its path, outside of the bundle that is trained.
    Reports: none
    Before: MARKER is created: overlays were not checked
    Right: refused, naming the file and the entry
    """
    text = f"method#gamma: ${MAKE_MARKER} or 1.0\n"
    return bundle(folder, options.run, overlay={"settings.yaml": text}) | {
        "command": training("tracetrans", "--overlay", str((folder / "settings").resolve())),
        "names": ["settings.yaml", "method#gamma"],
    }


@case
def overlay_merging_a_mode(folder, options):
    """An overlay of a bundle made elsewhere merges `_mode_: debug` into the method by a key `+method`.
    Reports: none
    Before: MARKER is created
    Right: refused, naming the file
    """
    return bundle(folder, options.run, overlay={"bundle/configs/more.yaml": "+method: {_mode_: debug}\n"}) | {
        "command": training("bundle", "--overlay", "more"),
        "names": ["more.yaml", "_mode_: debug"],
    }


@case
def whole_bundle_elsewhere(folder, options):
    """A copy of a shipped bundle in a folder of its own, with another weight, a control.
    Reports: none
    Before: trained
    Right: that
    """
    return bundle(folder, options.run, lambda text: text.replace("gamma: 1.0", "gamma: 0.75")) | {
        "command": training("bundle"),
        "accept": ["read"],
        "names": [],
    }


@case
def plain_values(folder, options):
    """Data only: another weight, a description, a switch that is off, a reference and an alias to a number, a control.
    Reports: none
    Before: read
    Right: that
    """
    return write(
        folder,
        options.run,
        lambda config: (
            config["method"].update(_desc_="trained in the autumn", _disabled_=False, alpha=0.3, gamma="@how#0"),
            config.update(how=[0.5]),
        ),
        lambda text: text.replace("max_epochs: 2", "max_epochs: &two 2").replace(
            "\nbatch_size: 2", "\nbatch_size: *two"
        ),
        accept="read",
        names=(),
    )


if __name__ == "__main__":
    main(__doc__, options)
