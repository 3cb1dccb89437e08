"""A MONAI bundle of a method, generated from its settings."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from medtrace import __version__
from medtrace.methods import Method, MethodSettings, method_class, resolve
from medtrace.methods.registry import folder_of
from medtrace.storage.directories import atomic_directory
from medtrace.storage.files import atomic_write

BUNDLES = Path(__file__).parents[1] / "bundles"
CONFIGS = ("train", "evaluate", "inference", "multi_gpu_train")
_IMPORTS = ("torch", "monai", "medtrace", "medtrace.data", "medtrace.engines", "medtrace.methods")
_PACKAGES = ("nibabel", "SimpleITK", "scipy", "pytorch-ignite", "safetensors", "pydantic")
_DEVICE = "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')"
_HEADINGS = {
    "train": "{title} on pairs prepared by `medtrace prepare`. Every value under `settings` is the method's own default"
    " or preset;\n# change values there, or with `--settings#training#max_epochs 3`.",
    "evaluate": "On top of train: score a run on unseen subjects.",
    "inference": "Write the traces of prepared images. `settings` must be those of the training.",
    "multi_gpu_train": "On top of train, started by torchrun with a process per device; without CUDA on gloo.",
}


def bundle(
    name: str,
    out: str | os.PathLike,
    *,
    presets: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write the bundle of a method.

    It is self-contained where medtrace is installed: `python -m monai.bundle run` trains, evaluates and infers with it,
    to the weights that `medtrace train` reaches with the same settings, and leaves the same run folder.

    Args:
        name: the method's.
        out: a new or empty folder.
        presets: of the method.
        settings: dotted name → value on top.

    Returns:
        The folder.

    Raises:
        ValueError: if a name is unknown or a value is refused.
        FileExistsError: if `out` is in use.
    """
    kind = method_class(name)
    chosen = resolve(kind.settings_type, tuple(presets), settings)
    out = Path(out)
    with atomic_directory(out) as folder:
        for path, text in bundle_files(kind, chosen).items():
            atomic_write(folder / path, text, make_parents=True)
        atomic_write(folder / "LICENSE", (BUNDLES / "LICENSE").read_bytes())
    return out


def bundle_files(kind: type[Method], settings: MethodSettings) -> dict[str, str]:
    """Path within a bundle → text."""
    configs = {
        "train": _train(kind, settings),
        "evaluate": _evaluate(),
        "inference": _inference(kind, settings),
        "multi_gpu_train": _multi_gpu(),
    }
    texts = {f"configs/{name}.yaml": _yaml(_HEADINGS[name].format(title=kind.title), configs[name]) for name in CONFIGS}
    texts["configs/metadata.json"] = json.dumps(_metadata(kind, settings), indent=4, ensure_ascii=False) + "\n"
    texts["configs/logging.conf"] = _LOGGING
    texts["docs/README.md"] = _readme(kind)
    return texts


def _head(kind: type[Method], settings: MethodSettings) -> dict[str, Any]:
    return {
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/dataset'",
        "run_dir": f"$@bundle_root + '/runs/{kind.name}'",
        "device": _DEVICE,
        "method_name": kind.name,
        "settings": settings.model_dump(mode="json"),
        "resolved": "$medtrace.methods.settings_of(@method_name, @settings)",
        "method": "$medtrace.methods.build_method(@method_name, @resolved)",
        "network": "$@method.to(@device)",
        "network_def": "$@method.io_network()",
    }


def _train(kind: type[Method], settings: MethodSettings) -> dict[str, Any]:
    head = _head(kind, settings)
    return {
        "imports": [f"$import {name}" for name in _IMPORTS],
        **head,
        "resume": False,
        "seed": "@settings#training#seed",
        "max_epochs": "@settings#training#max_epochs",
        "val_interval": "@settings#training#val_interval",
        "sources": "$medtrace.data.sources(@resolved, @dataset_dir, type(@method).case_transform(@resolved))",
        "optimizers": "$medtrace.engines.build_optimizers(@network, @resolved)",
        "train": {
            "dataset": {
                "_target_": "medtrace.data.DeterministicDataset",
                "data": "$@sources.training()",
                "seed": "@seed",
            },
            "dataloader": "$medtrace.data.training_loader(@train#dataset, @resolved, @device)",
            "inferer": {"_target_": "monai.inferers.SimpleInferer"},
            "handlers": _train_handlers(kind),
            "trainer": {
                "_target_": "medtrace.engines.Trainer",
                "device": "@device",
                "max_epochs": "@max_epochs",
                "seed": "@seed",
                "train_data_loader": "@train#dataloader",
                "method": "@network",
                "optimizers": "@optimizers",
                "train_handlers": "@train#handlers",
                "max_gradient_norm": "@settings#training#max_gradient_norm",
                "accumulate": "@settings#training#accumulate",
                "amp": "@settings#training#amp",
                "amp_kwargs": "$medtrace.engines.autocast_arguments(@resolved)",
                "non_blocking": True,
            },
        },
        "validate": {
            "dataset": {"_target_": "monai.data.Dataset", "data": "$@sources.validation()"},
            "dataloader": "$medtrace.data.evaluation_loader(@validate#dataset, @resolved)",
            "key_metric": {
                "mae": {
                    "_target_": "monai.handlers.MeanAbsoluteError",
                    "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
                }
            },
            "handlers": [],
            "evaluator": _evaluator("@validate#dataloader", "@validate#handlers", "@validate#key_metric"),
        },
        "initialize": ["$monai.utils.set_determinism(seed=@seed)"],
        "run": ["$@train#trainer.run()"],
    }


def _train_handlers(kind: type[Method]) -> list[dict[str, Any]]:
    follows = {"_disabled_": "$not medtrace.engines.leads()"}
    unless_validated = {"_disabled_": "$@val_interval == 0 or len(@validate#dataset) == 0"}
    return [
        {
            "_target_": "medtrace.workflows.handlers.RunFolder",
            "run": "@run_dir",
            "name": "@method_name",
            "settings": "@resolved",
            "dataset": "@dataset_dir",
        },
        {
            "_target_": "medtrace.engines.WeightAveraging",
            "_disabled_": "$@settings#training#ema_decay is None",
            "decay": "$@settings#training#ema_decay or 0",
            "validator": "@validate#evaluator",
        },
        {
            "_target_": "ValidationHandler",  # MONAI's check of bundles knows it by this name only
            **unless_validated,
            "validator": "@validate#evaluator",
            "epoch_level": True,
            "interval": "@val_interval",
        },
        {
            "_target_": "medtrace.engines.BestWeights",
            **unless_validated,
            "run": "@run_dir",
            "validator": "@validate#evaluator",
            "patience": "@settings#training#early_stopping",
        },
        {
            "_target_": "medtrace.engines.LossHistory",
            **follows,
            "path": "$@run_dir + '/history.csv'",
            "validator": "@validate#evaluator",
        },
        {
            "_target_": "monai.handlers.TensorBoardStatsHandler",
            **follows,
            "log_dir": "$@run_dir + '/tensorboard'",
            "iteration_log": False,
            "epoch_log": True,
        },
        {
            "_target_": "medtrace.engines.ProgressBar",
            **follows,
            "description": kind.title,
            "log": "$@run_dir + '/train.log'",
        },
        {
            "_target_": "medtrace.engines.Tracking",
            **follows,
            "tool": "@settings#training#tracking",
            "run": "@run_dir",
            "settings": "@settings",
        },
        {
            "_target_": "medtrace.engines.Checkpoint",
            "folder": "$@run_dir + '/checkpoints'",
            "interval": "@settings#training#checkpoint_interval",
            "resume": "@resume",
            "minutes": "@settings#training#checkpoint_minutes",
        },
        {"_target_": "medtrace.engines.build_schedule", "settings": "@resolved"},
        {
            "_target_": "medtrace.engines.Acceleration",
            "compile": "@settings#training#compile",
            "channels_last": "@settings#training#channels_last",
        },
        {"_target_": "medtrace.workflows.handlers.WeightsSaver", "run": "@run_dir"},
        {
            "_target_": "medtrace.workflows.run_page.RunPage",
            **follows,
            "run": "@run_dir",
            "title": kind.title,
            "validator": "@validate#evaluator",
        },
    ]


def _evaluator(loader: str, handlers: str, metric: str | None) -> dict[str, Any]:
    key = {} if metric is None else {"key_val_metric": metric, "metric_cmp_fn": "$lambda current, best: current < best"}
    return {
        "_target_": "medtrace.engines.Evaluator",
        "device": "@device",
        "val_data_loader": loader,
        "method": "@network",
        **key,
        "val_handlers": handlers,
        "amp": "@settings#training#amp",
        "amp_kwargs": "$medtrace.engines.autocast_arguments(@resolved)",
        "non_blocking": True,
    }


def _loader() -> dict[str, Any]:
    return {
        "_target_": "monai.handlers.CheckpointLoader",
        "load_path": "@ckpt_path",
        "load_dict": {"method": "@network"},
        "map_location": "@device",
    }


def _evaluate() -> dict[str, Any]:
    return {
        "ckpt_path": "$@run_dir + '/checkpoints/final.pt'",
        "output_dir": "$@run_dir + '/evaluation'",
        "dataset": {"_target_": "monai.data.Dataset", "data": "$@sources.test()"},
        "dataloader": "$medtrace.data.evaluation_loader(@dataset, @resolved)",
        "inferer": {"_target_": "monai.inferers.SimpleInferer"},
        "key_metric": {
            "mae_255": {
                "_target_": "monai.handlers.IgniteMetricHandler",
                "metric_fn": {"_target_": "medtrace.metrics.MAEMetric", "data_range": [-1, 1], "output_range": 255},
                "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
            }
        },
        "handlers": [
            _loader(),
            {"_target_": "medtrace.workflows.handlers.CaseScores", "folder": "@output_dir"},
            {"_target_": "monai.handlers.StatsHandler", "iteration_log": False},
        ],
        "evaluator": _evaluator("@dataloader", "@handlers", "@key_metric"),
        "initialize": ["$monai.utils.set_determinism(seed=@seed)"],
        "run": ["$@evaluator.run()"],
    }


def _inference(kind: type[Method], settings: MethodSettings) -> dict[str, Any]:
    pairs = "translate" not in kind.abilities.tasks
    keys: list[str] = ["source", "target", "mask", "source_mask"] if pairs else ["source"]
    images = keys[:2] if pairs else keys
    missing = {"allow_missing_keys": True} if pairs else {}
    result = (
        "$[{'case': os.path.basename(stem), **{name: path for name in @keys if os.path.isfile(path := stem + '_' + name"
        " + '.nii.gz')}} for stem in @stems]"
    )
    return {
        "imports": ["$import glob", "$import os", *(f"$import {name}" for name in _IMPORTS)],
        **_head(kind, settings),
        "ckpt_path": "$@run_dir + '/checkpoints/final.pt'",
        "output_dir": "$@run_dir + '/traces'",
        "overwrite": False,
        # Images as `medtrace prepare` writes them, in [0, 1]; `medtrace translate` and `register` take scans as they
        # are.
        "images": "$sorted(glob.glob(os.path.join(@dataset_dir, 'images', '*_source.nii.gz')))",
        "stems": "$[path.removesuffix('_source.nii.gz') for path in @images]",
        "keys": keys,
        "preprocessing": {
            "_target_": "monai.transforms.Compose",
            "transforms": [
                {"_target_": "medtrace.data.nifti.ReadNiftid", "keys": keys, **missing},
                {
                    "_target_": "medtrace.data.dataset.DropSliceAxisd",
                    "_disabled_": "$@settings#spatial_dims == 3",
                    "keys": keys,
                    **missing,
                },
                {
                    "_target_": "monai.transforms.ScaleIntensityRanged",
                    "keys": images,
                    "a_min": 0.0,
                    "a_max": 1.0,
                    "b_min": -1.0,
                    "b_max": 1.0,
                },
            ],
        },
        "dataset": {"_target_": "monai.data.Dataset", "data": result, "transform": "@preprocessing"},
        # One by one: images of different sizes, and pairs with and without masks, make no batch.
        "dataloader": {"_target_": "monai.data.DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": {"_target_": "monai.inferers.SimpleInferer"},
        "handlers": [
            _loader(),
            {
                "_target_": "medtrace.workflows.handlers.TraceSaver",
                "folder": "@output_dir",
                "method": "@method_name",
                "overwrite": "@overwrite",
            },
            {"_target_": "monai.handlers.StatsHandler", "iteration_log": False},
        ],
        "evaluator": _evaluator("@dataloader", "@handlers", None),
        "run": ["$@evaluator.run()"],
    }


def _multi_gpu() -> dict[str, Any]:
    return {
        "imports": [
            "$import os",
            "$import torch.distributed",
            *(f"$import {name}" for name in _IMPORTS),
            "$import medtrace.engines.distributed",
        ],
        "backend": "$'nccl' if torch.cuda.is_available() else 'gloo'",
        "local_rank": "$int(os.environ.get('LOCAL_RANK', 0))",
        "device": "$torch.device('cuda', @local_rank) if torch.cuda.is_available() else torch.device('cpu')",
        "network": {
            "_target_": "medtrace.engines.distributed.distribute",
            "method": "$@method.to(@device)",
            "networks": "$@method.distributed_networks()",
        },
        "initialize": [
            "$torch.cuda.set_device(@device) if torch.cuda.is_available() else None",
            "$medtrace.engines.distributed.join(@backend)",
            "$monai.utils.set_determinism(seed=@seed)",
        ],
        "finalize": ["$medtrace.engines.distributed.leave()"],
    }


def _metadata(kind: type[Method], settings: MethodSettings) -> dict[str, Any]:
    """MONAI's metadata: what the method's own `bundle.json` says, versions, and the network's format."""
    path = folder_of(kind) / "bundle.json"
    own: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    declared = _declared()
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "version": __version__,
        "changelog": {__version__: "generated from the settings of medtrace"},
        "monai_version": declared["monai"],
        "pytorch_version": declared["torch"],
        "numpy_version": declared["numpy"],
        "required_packages_version": {"medtrace": __version__, **{name: declared[name] for name in _PACKAGES}},
        "name": kind.title,
        "task": f"Medical image translation: {', '.join(kind.abilities.tasks)}",
        "description": (kind.__doc__ or kind.title).strip().splitlines()[0],
        "authors": "medtrace developers",
        "copyright": "Copyright (c) medtrace developers",
        "data_source": "TraceBench (generated by medtrace), or pairs prepared by `medtrace prepare`",
        "data_type": "nibabel",
        "image_classes": "source image, intensities in [-1, 1], background -1",
        "label_classes": "target image, intensities in [-1, 1]",
        "pred_classes": "predicted image, intensities in [-1, 1]",
        "intended_use": "Research on traceable image translation. Not a medical device; not for diagnosis or the"
        " planning of treatment",
        "references": [kind.paper],
        **own,
        "network_data_format": own.get("network_data_format", _network_format(kind, settings)),
    }


def _declared() -> dict[str, str]:
    """Package → the lowest version that medtrace declares to work with."""
    result = {}
    for requirement in metadata.requires("medtrace") or ():
        match = re.match(r"([\w.-]+)[^;]*?>=([\d.]+)", requirement)
        if match and "extra" not in requirement:
            result[match[1]] = match[2]
    return result


def _network_format(kind: type[Method], settings: MethodSettings) -> dict[str, Any]:
    def image(channels: int, meaning: Mapping[str, str]) -> dict[str, Any]:
        return {
            "type": "image",
            "format": "magnitude",
            "modality": "MR",
            "num_channels": channels,
            "spatial_shape": ["*"] * settings.spatial_dims,
            "dtype": "float32",
            "value_range": [-1, 1],
            "is_patch_data": False,
            "channel_def": dict(meaning),
        }

    if "translate" in kind.abilities.tasks:
        given = image(settings.in_channels, {"0": "source image"})
        out = image(settings.out_channels, {"0": "predicted image"})
    else:
        given = image(2 * settings.in_channels, {"0": "source", "1": "target"})
        out = image(settings.in_channels, {"0": "source on the target's grid"})
    return {"inputs": {"image": given}, "outputs": {"pred": out}}


def _readme(kind: type[Method]) -> str:
    path = folder_of(kind) / "card.md"
    card = path.read_text(encoding="utf-8").rstrip() if path.is_file() else f"# {kind.title}\n\n{kind.paper}"
    return f"{card}\n\n{_COMMANDS.format(name=kind.name)}"


def _yaml(heading: str, config: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(dict(config), sort_keys=False, width=118, allow_unicode=True, default_flow_style=None)
    return f"# {heading}\n# Generated by `medtrace bundle`.\n{text}"


_COMMANDS = """## As a MONAI bundle

This bundle holds configurations and no weights; `medtrace` must be installed. In this folder:

```
# train; `medtrace train {name}` ends with the same weights
python -m monai.bundle run --config_file configs/train.yaml --dataset_dir DATASET --run_dir RUN

# resume from the newest checkpoint of a run
python -m monai.bundle run --config_file configs/train.yaml --dataset_dir DATASET --run_dir RUN --resume True

# several devices
torchrun --standalone --nproc_per_node 2 -m monai.bundle run \\
    --config_file "['configs/train.yaml', 'configs/multi_gpu_train.yaml']" --dataset_dir DATASET --run_dir RUN

# scores of the test subjects: RUN/evaluation/cases.csv and summary.csv
python -m monai.bundle run --config_file "['configs/train.yaml', 'configs/evaluate.yaml']" \\
    --dataset_dir DATASET --run_dir RUN

# traces of the prepared images: RUN/traces/CASE
python -m monai.bundle run --config_file configs/inference.yaml --dataset_dir DATASET --run_dir RUN
```

`dataset_dir` is a folder made by `medtrace prepare`. Every setting can be changed on the command line, such as
`--settings#training#max_epochs 3`; evaluation and inference must be given the same values as the training. The run
folder is that of `medtrace train`: `medtrace evaluate RUN DATASET` and `medtrace translate RUN SCAN` take it. A bundle
with the values of another preset is made by `medtrace bundle {name} --preset NAME --out FOLDER`.

For research, not for diagnosis or the planning of treatment.
"""

_LOGGING = """[loggers]
keys=root

[handlers]
keys=console

[formatters]
keys=full

[logger_root]
level=INFO
handlers=console

[handler_console]
class=StreamHandler
level=INFO
formatter=full
args=(sys.stdout,)

[formatter_full]
format=%(asctime)s %(levelname)s %(name)s: %(message)s
"""
