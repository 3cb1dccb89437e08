"""Public names and options, as lines; `python -m tests.public_names` writes them to public_names.txt."""

import pkgutil
from importlib import import_module
from pathlib import Path

import typer

import medtrace
from medtrace.cli import app

LISTED = Path(__file__).with_suffix(".txt")


def public_modules():
    """medtrace and its subpackages that say what is public, by name; a method's folder has but its METHOD."""
    names = [module.name for module in pkgutil.walk_packages(medtrace.__path__, "medtrace.") if module.ispkg]
    modules = {name: import_module(name) for name in ["medtrace", *names]}
    return {name: module for name, module in modules.items() if getattr(module, "__all__", ["METHOD"]) != ["METHOD"]}


def public_names():
    """Lines such as "medtrace.networks.TraceTrans" and "medtrace train --out", sorted."""
    lines = {f"{name}.{public}" for name, module in public_modules().items() for public in module.__all__}
    for command, entry in typer.main.get_command(app).commands.items():
        lines.add(f"medtrace {command}")
        options = [option for parameter in entry.params for option in (*parameter.opts, *parameter.secondary_opts)]
        lines |= {f"medtrace {command} {option}" for option in options if option.startswith("--")}
    return sorted(lines)


if __name__ == "__main__":
    LISTED.write_text("\n".join(public_names()) + "\n", encoding="utf-8")
