"""Traceable medical image-to-image translation on MONAI.

Each name below is imported when it is first asked for, so that `import medtrace` costs nothing:

    >>> import medtrace
    >>> network = medtrace.networks.TraceTrans(2, 1, 1, channels=(8, 16))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from medtrace import losses, methods, metrics, networks, transforms
    from medtrace.data.reading import read_image
    from medtrace.io.trace_folder import load_trace
    from medtrace.trace.record import Trace
    from medtrace.workflows.evaluate import evaluate
    from medtrace.workflows.prepare import prepare
    from medtrace.workflows.register import register
    from medtrace.workflows.train import train
    from medtrace.workflows.translate import translate

__all__ = [
    "Trace",
    "evaluate",
    "load_trace",
    "losses",
    "methods",
    "metrics",
    "networks",
    "prepare",
    "read_image",
    "register",
    "train",
    "transforms",
    "translate",
]

_MODULES = {
    "Trace": "trace.record",
    "evaluate": "workflows.evaluate",
    "load_trace": "io.trace_folder",
    "prepare": "workflows.prepare",
    "read_image": "data.reading",
    "register": "workflows.register",
    "train": "workflows.train",
    "translate": "workflows.translate",
}
"""Where each class and function stands; the other names are subpackages."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"medtrace.{_MODULES[name]}"), name)
    if name in __all__:
        return import_module(f"medtrace.{name}")
    raise AttributeError(f"module 'medtrace' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
