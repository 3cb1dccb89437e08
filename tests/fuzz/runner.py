"""Give broken files to readers in child processes, so that a crash, a hang or a huge allocation is a finding.

    python -m tests.fuzz.runner --inputs 10000

The child has an address space of its size after imports plus MEMORY, and SECONDS of its own CPU time for an input.
"""

import argparse
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

MEMORY = 1 << 30
SECONDS = 10
PATIENCE = 120
"""Seconds on the wall after which a child that says nothing counts as hanging; machines may be busy."""
REFUSALS = (ValueError, TypeError, OSError)


class Outcome(NamedTuple):
    """What came of one input."""

    kind: str
    seed: int
    verdict: str
    """"accepted", "refused" or "finding"."""
    detail: str


def run(inputs: Sequence[tuple[str, int]]) -> list[Outcome]:
    """Read the inputs (kind, seed) one after the other; a child that dies is replaced."""
    done: list[Outcome] = []
    while len(done) < len(inputs):
        done += _batch(inputs[len(done) :])
    return done


def spread(count: int, kinds: Sequence[str], start: int = 0) -> list[tuple[str, int]]:
    """`count` inputs dealt to the kinds, one kind after the other."""
    return [
        (kind, start + seed)
        for number, kind in enumerate(kinds)
        for seed in range(count // len(kinds) + (number < count % len(kinds)))
    ]


def _batch(inputs: Sequence[tuple[str, int]]) -> Iterator[Outcome]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MEDTRACE_ALLOW_FOREIGN_CODE": ""}
    command = [sys.executable, "-m", "tests.fuzz.runner", "--child"]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        (Path(folder) / "inputs.json").write_text(json.dumps(inputs))
        child = subprocess.Popen([*command, folder], stdout=subprocess.PIPE, stderr=errors, env=environment)
        done = 0
        try:
            for line in _lines(child):
                if line.startswith("{"):
                    yield Outcome(**json.loads(line))
                    done += 1
        finally:
            child.kill()
            child.wait()
        if done < len(inputs):
            errors.seek(0)
            last = errors.read()[-600:]
            if done == 0 and child.returncode == 1:
                raise RuntimeError(f"the child cannot start: {last}")
            kind, seed = inputs[done]
            how = "hang" if child.returncode in (-signal.SIGKILL, -signal.SIGXCPU) else "crash"
            yield Outcome(kind, seed, "finding", f"{how} (exit {child.returncode}): {last}")


def _lines(child: subprocess.Popen) -> Iterator[str]:
    """Lines of a child until it ends or says nothing for too long."""
    place, rest = child.stdout.fileno(), b""
    while select.select([place], [], [], PATIENCE)[0]:
        piece = os.read(place, 1 << 16)
        if not piece:
            child.wait()
            return
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line.decode() for line in lines)


def _child(folder: Path) -> None:
    from tests.fuzz.corpus import KINDS
    from tests.fuzz.mutate import mutated

    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no report
    warnings.simplefilter("ignore")
    inputs = json.loads((folder / "inputs.json").read_text())
    kinds = {kind for kind, _ in inputs}
    intact = {}
    for kind in sorted(kinds):
        place = folder / kind.replace(" ", "_")
        place.mkdir()
        KINDS[kind].make(place)
        KINDS[kind].read(place)  # also makes the readers' imports and first allocations
        intact[kind] = (place, (place / KINDS[kind].file).read_bytes())
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    out.write("ready\n")
    for kind, seed in inputs:
        place, content = intact[kind]
        (place / KINDS[kind].file).write_bytes(mutated(content, seed))
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + SECONDS, hard))
        out.write(json.dumps({"kind": kind, "seed": seed, **_outcome(KINDS[kind].read, place)}) + "\n")


def _outcome(read: Any, place: Path) -> dict[str, str]:
    try:
        result = read(place)
    except REFUSALS as error:
        if (memory := _memory(error)) is not None:
            return {"verdict": "finding", "detail": f"huge allocation: {memory}"}
        if len(str(error)) < 10:
            return {"verdict": "finding", "detail": f"no message: {error!r}"}
        return {"verdict": "refused", "detail": str(error)[:200].replace(str(place), "")}
    except BaseException as error:  # anything else is what is looked for
        import traceback

        where = traceback.extract_tb(error.__traceback__)[-1]
        return {"verdict": "finding", "detail": f"{error!r:.300} at {where.filename}:{where.lineno}"}
    wrong = _wrong(result)
    return {"verdict": "finding" if wrong else "accepted", "detail": wrong}


def _memory(error: BaseException | None) -> str | None:
    """The error among its causes that says that memory ran out."""
    while error is not None:
        text = str(error).lower()
        if isinstance(error, MemoryError) or "alloc" in text or "not enough memory" in text:
            return repr(error)[:300]
        error = error.__cause__ or error.__context__
    return None


def _wrong(result: Any) -> str:
    """What is wrong with something that was accepted."""
    import torch

    from medtrace.trace import Trace

    if isinstance(result, Trace):
        members = [result.source, result.image, result.ddf, result.inverse_ddf, result.affine, result.source_affine]
    elif isinstance(result, torch.Tensor):
        members = [result]
    elif isinstance(result, tuple) and not isinstance(result, str):
        members = [value for value in result if isinstance(value, torch.Tensor)]
    else:
        return ""
    for member in members:
        if member.numel() == 0:
            return f"accepted an empty tensor of shape {tuple(member.shape)}"
        if not bool(torch.isfinite(torch.as_tensor(member)).all()):
            return "accepted numbers that are not finite"
    return ""


def report(outcomes: Sequence[Outcome]) -> str:
    """A table of kinds, and the findings."""
    lines = [f"{'kind':<20}{'inputs':>8}{'accepted':>10}{'refused':>10}{'findings':>10}"]
    for kind in [*dict.fromkeys(outcome.kind for outcome in outcomes), "all"]:
        counts = Counter(outcome.verdict for outcome in outcomes if kind in (outcome.kind, "all"))
        row = [sum(counts.values()), *(counts[name] for name in ("accepted", "refused", "finding"))]
        lines.append(f"{kind:<20}{row[0]:>8}{row[1]:>10}{row[2]:>10}{row[3]:>10}")
    lines += [f"{o.kind} {o.seed}: {o.detail}" for o in outcomes if o.verdict == "finding"]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--kinds", help="some of them, parted by commas")
    parser.add_argument("--start", type=int, default=0, help="first seed")
    parser.add_argument("--child", type=Path)
    arguments = parser.parse_args()
    if arguments.child is not None:
        _child(arguments.child)
        sys.exit(0)
    from tests.fuzz.corpus import KINDS

    chosen = arguments.kinds.split(",") if arguments.kinds else list(KINDS)
    started = time.monotonic()
    found = run(spread(arguments.inputs, chosen, arguments.start))
    print(report(found))
    print(f"{len(found)} inputs in {time.monotonic() - started:.0f} s")
    sys.exit(any(outcome.verdict == "finding" for outcome in found))
