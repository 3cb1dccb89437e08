"""Give broken files to readers in child processes, so that a crash, a hang or a huge allocation is a finding.

    python -m tests.fuzz.runner --inputs 10000

A child has an address space of its size after imports plus MEMORY, and SECONDS of its own CPU time for an input.
"""

import argparse
import json
import os
import resource
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
"""Seconds on the wall for an input, for those that wait without computing; machines may be busy."""
RESULTS = "results.jsonl"
OUT_OF_MEMORY = ("bad_alloc", "can't allocate", "failed to allocate", "allocation failed", "not enough memory")
REFUSALS = (ValueError, TypeError, OSError)


class Outcome(NamedTuple):
    """What came of one input."""

    kind: str
    seed: int
    verdict: str
    """"accepted", "refused" or "finding"."""
    detail: str


def run(inputs: Sequence[tuple[str, int]]) -> list[Outcome]:
    """Read broken files, named by kind and seed, one after the other."""
    return list(_batch(inputs))


def spread(count: int, kinds: Sequence[str], start: int = 0) -> list[tuple[str, int]]:
    """`count` inputs dealt to the kinds, one kind after the other."""
    return [
        (kind, start + seed)
        for number, kind in enumerate(kinds)
        for seed in range(count // len(kinds) + (number < count % len(kinds)))
    ]


def _batch(inputs: Sequence[tuple[str, int]]) -> Iterator[Outcome]:
    """What its own process says to the inputs."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ITK_GLOBAL_DEFAULT_THREADER": "Platform"}
    environment.pop("MEDTRACE_ALLOW_FOREIGN_CODE", None)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "inputs.json").write_text(json.dumps(inputs))
        command = [sys.executable, "-m", "tests.fuzz.runner", "--child", folder]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"the readers of intact files failed: {done.stderr[-2000:]}")
        for line in (Path(folder) / RESULTS).read_text().splitlines():
            yield Outcome(**json.loads(line))


def _child(folder: Path) -> None:
    """Make the intact files, then fork a reader that goes through the inputs; fork another where one dies."""
    from tests.fuzz.corpus import BAD, KINDS

    kinds = {**KINDS, **BAD}
    warnings.simplefilter("ignore")
    inputs = json.loads((folder / "inputs.json").read_text())
    intact = {}
    for kind in sorted({kind for kind, _ in inputs}):
        place = folder / kind.replace(" ", "_")
        place.mkdir()
        kinds[kind].make(place)
        kinds[kind].read(place)  # also makes the readers' imports and first allocations
        intact[kind] = (place, (place / kinds[kind].file).read_bytes())
    results = folder / RESULTS
    results.touch()
    while (done := len(results.read_text().splitlines())) < len(inputs):
        reader = os.fork()
        if reader == 0:
            _read_all(inputs[done:], intact, results)
        _, status = os.waitpid(reader, 0)
        after = len(results.read_text().splitlines())
        if after < len(inputs):
            kind, seed = inputs[after]
            cause = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {status}"
            how = "hang" if cause in ("SIGALRM", "SIGXCPU") else "crash"
            _append(results, Outcome(kind, seed, "finding", f"{how} ({cause})"))


def _read_all(inputs: Sequence[tuple[str, int]], intact: dict[str, tuple[Path, bytes]], results: Path) -> None:
    """In a process of little memory, which the system ends if one input takes too long."""
    from tests.fuzz.corpus import BAD, KINDS
    from tests.fuzz.mutate import mutated

    kinds = {**KINDS, **BAD}
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for kind, seed in inputs:
        place, content = intact[kind]
        (place / kinds[kind].file).write_bytes(mutated(content, seed))
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + SECONDS, hard))
        signal.alarm(PATIENCE)
        _append(results, Outcome(kind, seed, **_outcome(kinds[kind].read, place)))
    os._exit(0)


def _append(results: Path, outcome: Outcome) -> None:
    with results.open("a") as file:
        file.write(json.dumps(outcome._asdict()) + "\n")


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
        if isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY):
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
