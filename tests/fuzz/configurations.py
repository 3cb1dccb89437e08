"""Random changes of a shipped configuration, and what MONAI would run of one; nothing is run.

python -m tests.fuzz.configurations 20000
"""

import copy
import random
import re
import sys
import warnings
from contextlib import contextmanager

from monai.bundle import ConfigParser
from monai.bundle.config_item import ConfigComponent, ConfigExpression

from medtrace.guard.configuration_language import nodes
from medtrace.guard.configurations import BUNDLES, foreign_code, read_config

STARTS = ("", "", "@", "@", "@#", "@##", "@::", "%", "%#", "$", "$@", " @", "@@", "＠")
KEYS = (
    *("_mode_", "_debug_", "_requires_", "_disabled_", "_desc_", "_target_", "_meta_", "_x_", "how", "alpha", "0", ""),
    *("+how", "~how", "$how", "objective", "networks", "\uff3fmode\uff3f", "_mode_ ", 0, 1, True, None),
)
PLAIN = ("debug", "callable", "text", "os.system", "builtins.print", 0, 0.5, True, None, [], {})


def small():
    """The configuration of a shipped bundle that trains."""
    return {
        key: value
        for key, value in read_config(BUNDLES / "tracetrans" / "configs" / "train.yaml").items()
        if key != "_meta_"
    }


def holders(config):
    """Every mapping and list of a configuration, and itself."""
    return [config, *(node.value for node in nodes(config) if isinstance(node.value, (dict, list)))]


def some_value(rng, config):
    """A plain value, a text that may mean something, or a copy of what stands elsewhere."""
    places = [node.place for node in nodes(config)]
    kind = rng.random()
    if kind < 0.3:
        return copy.deepcopy(rng.choice(PLAIN))
    if kind < 0.75:
        place = rng.choice(places)
        return rng.choice(STARTS) + (place.replace("#", "::") if rng.random() < 0.3 else place)
    inner = copy.deepcopy(rng.choice(list(nodes(config))).value)
    return {rng.choice(KEYS): inner} if kind > 0.95 else inner


def change(rng, config):
    """One change, in place."""
    holder = rng.choice(holders(config))
    value = some_value(rng, config)
    if isinstance(holder, list):
        if holder and rng.random() < 0.7:
            holder[rng.randrange(len(holder))] = value
        else:
            holder.append(value)
        return
    places = [node.place for node in nodes(config)]
    key = rng.choice(list(holder)) if holder and rng.random() < 0.5 else rng.choice(KEYS)
    if rng.random() < 0.15:
        key = rng.choice(places).replace("#", rng.choice(("#", "::")))
    if rng.random() < 0.3:
        before = dict(holder)
        holder.clear()
        holder[key] = value
        holder.update({name: inner for name, inner in before.items() if name != key})
    else:
        holder[key] = value


def changed(seed):
    """A configuration with some random changes."""
    rng = random.Random(seed)
    config = copy.deepcopy(SMALL)
    for _ in range(rng.randint(1, 3)):
        change(rng, config)
    return config


@contextmanager
def watched():
    """Have MONAI tell what it would call or evaluate, by id, instead of doing it."""
    told = []

    def instantiate(self, **_):
        if not self.is_disabled():
            told.append((self.get_id(), dict(self.get_config())))
        return object()

    def evaluate(self, *_, **__):
        told.append((self.get_id(), self.get_config()))
        return object()

    before = ConfigComponent.instantiate, ConfigExpression.evaluate
    ConfigComponent.instantiate, ConfigExpression.evaluate = instantiate, evaluate
    try:
        yield told
    finally:
        ConfigComponent.instantiate, ConfigExpression.evaluate = before


def strange(config):
    """What MONAI would run of a configuration that a shipped one has not at that place."""
    result = []
    names = [*config, ""]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            parser = ConfigParser()
            with watched() as told:
                try:
                    parser.read_config(copy.deepcopy(config))
                    parser.get_parsed_content(name)
                except Exception:  # whatever cannot be resolved runs no further
                    pass
            result += [entry for entry in told if not is_known(*entry)]
    return result


def is_known(place, what):
    """Whether an expression, or a call with its resolved keys, is a shipped configuration's at that place."""
    place = anywhere(place)
    if isinstance(what, str):
        return re.sub(r"__local_refs\['(.*?)'\]", r"@\1", what) in KNOWN.get(place, ())
    hidden = [key for key in what if not isinstance(key, str) or key.startswith("_")]
    known = any(what["_target_"] == target for target in KNOWN.get(f"{place}#_target_", ()))
    return known and set(hidden) <= {"_target_", "_disabled_", "_desc_"}


def anywhere(place):
    return re.sub(r"(?<=#)\d+(?=#|$)", "*", place.replace("::", "#"))


def known_texts():
    """Place → texts of the bundle's files that a training takes in, with ids as MONAI writes them."""
    texts = {}
    for file in sorted((BUNDLES / "tracetrans" / "configs").glob("*.yaml")):
        if file.stem in ("inference", "evaluate"):
            continue
        for node in nodes(read_config(file)):
            if isinstance(node.value, str):
                text = node.value.replace("#", "::") if node.value.startswith("$") else node.value
                texts.setdefault(anywhere(node.place), set()).add(text)
    return texts


SMALL, KNOWN = small(), known_texts()


def main(count):
    accepted = 0
    for seed in range(count):
        config = changed(seed)
        if foreign_code(config):
            continue
        accepted += 1
        for place, what in strange(config):
            print(seed, place, what, flush=True)
    print(f"{count} configurations, {accepted} accepted")


if __name__ == "__main__":
    main(int(sys.argv[1]))
