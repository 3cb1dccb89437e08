"""The configurations of a method's bundle."""

from __future__ import annotations

from typing import Any

from medtrace.methods import Method, MethodSettings
from medtrace.methods.base import NEIGHBORS

_IMPORTS = ("torch", "monai", "medtrace", "medtrace.data", "medtrace.engines", "medtrace.methods")
_READ = {"_target_": "medtrace.data.pair_files.ReadPairFilesd", "spatial_dims": "@settings#spatial_dims"}
"""For lists of files in place of a prepared folder, as MONAI Label gives; items already read are unchanged."""
_DEVICE = "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')"


def bundle_configs(kind: type[Method], settings: MethodSettings) -> dict[str, dict[str, Any]]:
    """Name of a configuration → its members, as `monai.bundle` reads them."""
    return {
        "train": _train(kind, settings),
        "evaluate": _evaluate(),
        "inference": _inference(kind, settings),
        "multi_gpu_train": _multi_gpu(),
    }


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
            "preprocessing": _READ,
            "dataset": {
                "_target_": "medtrace.data.DeterministicDataset",
                "data": "$@sources.training()",
                "seed": "@seed",
                "transform": "@train#preprocessing",
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
            "preprocessing": "@train#preprocessing",
            "dataset": {
                "_target_": "monai.data.Dataset",
                "data": "$@sources.validation()",
                "transform": "@validate#preprocessing",
            },
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
            "_target_": "medtrace.workflows.training.handlers.RunFolder",
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
            "_target_": "ValidationHandler",  # MONAI's check of bundles knows it only by this name
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
            "_disabled_": "$not medtrace.engines.leads() or not medtrace.engines.writes_tensorboard()",
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
        {"_target_": "medtrace.workflows.training.handlers.WeightsSaver", "run": "@run_dir"},
        {
            "_target_": "medtrace.workflows.training.run_page.RunPage",
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
            {"_target_": "medtrace.workflows.training.handlers.CaseScores", "folder": "@output_dir"},
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
    beside = [] if pairs else [NEIGHBORS]
    read_beside = [] if pairs else [{"_target_": "medtrace.data.neighbors.ReadNeighborsd"}]
    missing = {"allow_missing_keys": True}
    result = (
        "$[{'case': os.path.basename(stem), **{name: path for name in @keys if os.path.isfile(path := stem + '_' + name"
        " + '.nii.gz')}} for stem in @stems]"
    )
    return {
        "imports": ["$import glob", "$import os", *(f"$import {name}" for name in _IMPORTS)],
        **_head(kind, settings),
        "model_path": "$@bundle_root + '/models/model.pt'",
        "ckpt_path": "$@model_path if os.path.isfile(@model_path) else @run_dir + '/checkpoints/final.pt'",
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
                *read_beside,
                {
                    "_target_": "medtrace.data.dataset.DropSliceAxisd",
                    "_disabled_": "$@settings#spatial_dims == 3",
                    "keys": [*keys, *beside],
                    **missing,
                },
                {
                    "_target_": "monai.transforms.ScaleIntensityRanged",
                    "keys": [*images, *beside],
                    **missing,
                    "a_min": 0.0,
                    "a_max": 1.0,
                    "b_min": -1.0,
                    "b_max": 1.0,
                },
            ],
        },
        "items": result,
        "dataset": {
            "_target_": "monai.data.Dataset",
            "data": "@items" if pairs else "$medtrace.data.neighbors.with_neighbors(@items, @resolved.neighbors)",
            "transform": "@preprocessing",
        },
        # One by one: images of different sizes, and pairs with and without masks, make no batch.
        "dataloader": {"_target_": "monai.data.DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": {"_target_": "monai.inferers.SimpleInferer"},
        "handlers": [
            _loader(),
            {
                "_target_": "medtrace.workflows.training.handlers.TraceSaver",
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
