"""Messages of the library in the command line's terms: `--tracebench`, not `tracebench=True`."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping

from typer.models import ArgumentInfo, OptionInfo

ALIASES: Mapping[str, Mapping[str, str]] = {
    "prepare": {"spatial_dims": "dims", "fractions": "split"},
    "train": {"presets": "preset", "settings": "set_"},
    "bundle": {"presets": "preset", "settings": "set_"},
    "traceability": {"settings": "set_", "feature_network": "features"},
    "calibrate": {"dataset": "data"},
    "certify": {"source": "input_"},
    "report": {"targets": "target"},
    "export": {"format": "format_"},
    "import": {"format": "format_"},
    "export-model": {"format": "format_"},
    "bids": {"sources": "source"},
    "card": {"license": "license_", "limits": "limit"},
    "translate": {"image": "images"},
    "plan": {"presets": "preset"},
    "apply": {"format": "format_"},
    "convert": {"format": "format_"},
    "landmarks": {"format": "format_"},
}
"""Command → name of a function's parameter → name of the command's parameter, where they differ."""


class Word(typing.NamedTuple):
    """A parameter's name on the command line."""

    text: str
    """`--name`, or the name of an argument."""
    flag: bool = False
    negative: str = ""
    """The option that turns a flag off, if there is one."""


def words_of(command: str, function: Callable[..., None]) -> dict[str, Word]:
    """The command-line names of a command's parameters, also keyed by the names of the library's functions.

    Args:
        command: its name.
        function: the function that typer runs.
    """
    result = {}
    hints = typing.get_type_hints(function, include_extras=True)
    for name in inspect.signature(function).parameters:
        kind, *about = typing.get_args(hints[name]) if hasattr(hints[name], "__metadata__") else (hints[name],)
        info = next((one for one in about if isinstance(one, (ArgumentInfo, OptionInfo))), None)
        if isinstance(info, ArgumentInfo):
            result[name] = Word((info.metavar or name).removesuffix("..."))
            continue
        declared = (info.default, *(info.param_decls or ())) if info else ()  # typer takes the first one as a default
        given = [text for text in declared if isinstance(text, str) and text.startswith("--")]
        long, _, negative = (given[0] if given else f"--{name.replace('_', '-')}").partition("/")
        if kind is bool and not given:
            negative = f"--no-{long[2:]}"
        result[name] = Word(long, kind is bool or bool(negative), negative)
    return {**result, **{own: result[other] for own, other in ALIASES.get(command, {}).items() if other in result}}


def in_options(text: str, words: Mapping[str, Word]) -> str:
    """Rewrite a message about a function's parameters as one about a command's options.

    Args:
        text: text of an error or a warning.
        words: words of the command (see `words_of`).

    Example:
        >>> in_options("dims: expected 2; give spatial_dims=2 and pad=True", {"spatial_dims": Word("--dims"),
        ...     "dims": Word("--dims"), "pad": Word("--pad", True)})
        '--dims: expected 2; give --dims 2 and --pad'
    """
    if not words:
        return text
    names = "|".join(sorted(map(re.escape, words), key=len, reverse=True))
    free = r"(?<![\w./\\-])"

    def assigned(match: re.Match[str]) -> str:
        word, value = words[match[1]], match[2].strip("\"'")
        if word.flag and value in ("True", "False"):
            return word.text if value == "True" else word.negative or f"no {word.text}"
        return f"{word.text} {value}"

    text = re.sub(rf"{free}({names})=(\"[^\"]*\"|'[^']*'|[\w.+-]+)", assigned, text)
    text = re.sub(rf"^({names})(?=(?: of \w+)?: )", lambda match: words[match[1]].text, text)
    snakes = "|".join(sorted((re.escape(name) for name in words if "_" in name.strip("_")), key=len, reverse=True))
    return re.sub(rf"{free}({snakes})(?![\w./\\=])", lambda match: words[match[1]].text, text) if snakes else text
