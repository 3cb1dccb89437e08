"""Public functions, losses, metrics and transforms with right and with corrupted arguments, and traces of any numbers.

What a call has to come to is in tests/fuzz/calls.py; the calls themselves are in tests/fuzz/*_cases.py.
"""

import re
import warnings
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medtrace import fields, losses, metrics, transforms
from medtrace.trace import Trace
from tests.fuzz import field_cases, loss_cases, metric_cases, transform_cases
from tests.fuzz.calls import Case, assess, calls, filled

ROOMS = {
    "fields": (fields, field_cases),
    "losses": (losses, loss_cases),
    "metrics": (metrics, metric_cases),
    "transforms": (transforms, transform_cases),
}
CASES = {f"{room}.{name}": case for room, (_, cases) in ROOMS.items() for name, case in cases.CASES.items()}
FEW = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
MANY = settings(FEW, max_examples=300)
FILLS = ["normal", "unit", "constant", "zero", "tiny", "huge", "nan", "inf"]
AFFINE = torch.diag(torch.tensor([1.0, 2.0, 0.5, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_fuzzed_or_exempt(room):
    """A transform's other names (XD, XDict) are the same object as Xd."""
    module, cases = ROOMS[room]
    public = {name: value for name in module.__all__ if callable(value := getattr(module, name))}
    fuzzed = {name.partition(".")[0] for name in cases.CASES}
    assert fuzzed <= set(public)
    assert set(cases.EXEMPT) <= set(public)
    assert not fuzzed & set(cases.EXEMPT)
    assert all(len(reason) > 10 for reason in cases.EXEMPT.values())
    objects = [public[name] for name in fuzzed]
    left = [name for name, value in public.items() if value not in objects and name not in cases.EXEMPT]
    assert left == [], "add a case to tests/fuzz, or the reason why there is none"


def fuzz(case, examples, needed):
    """Assess calls of a case; some of them have to be answered, so that the case shows something."""
    result = Counter()

    @examples
    @given(calls(case))
    def one(drawn):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result[assess(case, *drawn)] += 1

    one()
    assert result[True] >= needed, result


LONG = {"transforms.RegisterPaird"}
"""A dozen of calls take too long for the default run."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in CASES]
)
def test_calls(name):
    fuzz(CASES[name], FEW, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_many_more_calls(name):
    fuzz(CASES[name], MANY, 10)


class TestJudge:
    """The assess finds what it is there for."""

    @staticmethod
    def of(call, law=lambda *_: None, **options):
        return Case(call, lambda _: {"x": torch.ones(2)}, law, **options)

    def test_a_refusal_names_an_argument(self):
        def refuse(**_):
            raise ValueError("x: expected something else")

        assert assess(self.of(refuse), {"x": torch.ones(2)}, True) is False
        with pytest.raises(ValueError, match="something else"):
            assess(self.of(refuse), {"x": torch.ones(2)}, False)

    @pytest.mark.parametrize("message", ["wrong", "y: wrong", "wrong x"])
    def test_a_refusal_without_a_name_is_found(self, message):
        def refuse(**_):
            raise TypeError(message)

        with pytest.raises(AssertionError, match="name"):
            assess(self.of(refuse), {"x": torch.ones(2)}, True)

    def test_another_error_is_found(self):
        with pytest.raises(AttributeError):
            assess(self.of(lambda x: x.shapes), {"x": torch.ones(2)}, True)

    def test_a_changed_argument_is_found(self):
        with pytest.raises(AssertionError, match="x was changed"):
            assess(self.of(lambda x: x.add_(1)), {"x": torch.ones(2)}, True)

    def test_nan_of_common_numbers_is_found(self):
        with pytest.raises(AssertionError, match="not finite"):
            assess(self.of(lambda x: x / 0), {"x": torch.ones(2)}, True)
        assert assess(self.of(lambda x: x / 0, undefined=True), {"x": torch.ones(2)}, True)
        assert assess(self.of(lambda x: x / 0), {"x": torch.full((2,), torch.nan)}, True)

    def test_an_answer_against_the_law_is_found(self):
        def law(answer, given):
            assert answer.shape == given["x"].shape

        with pytest.raises(AssertionError):
            assess(self.of(lambda x: x.sum(), law), {"x": torch.ones(2)}, False)


def numbers(shape, fill, seed):
    """A tensor of any numbers."""
    if fill in FILLS[:5]:
        return filled(tuple(shape), torch.float32, fill, seed)
    values = filled(tuple(shape), torch.float32, "normal", seed)
    if fill == "huge":
        return values * 1e30
    return values.masked_fill(values > 1, float(fill))


@FEW
@given(st.data())
def test_traces(data):
    """What builds answers: points of the right shape, labels on the grid, a ledger that adds up."""
    draw = data.draw
    dims = draw(st.sampled_from([2, 3]))
    shape = [draw(st.integers(1, 6)) for _ in range(dims)]
    fill = st.sampled_from(FILLS)
    source = numbers([1, *shape], draw(fill), 1)
    image = numbers([draw(st.integers(1, 2)), *shape], draw(fill), 2)
    ddf = numbers([draw(st.sampled_from([dims, dims, dims, 1])), *shape], draw(fill), 3)
    affine = draw(st.sampled_from([AFFINE, -AFFINE, AFFINE * 0, torch.eye(3), None, AFFINE.float() * float("nan")]))
    trace = _answer(lambda: Trace.build(source, image, ddf, affine=affine))
    if trace is None:
        return
    points = numbers([draw(st.integers(0, 4)), draw(st.sampled_from([3, 3, 3, 2]))], draw(fill), 4).double()
    for move in (trace.locate, trace.origin):
        moved = _answer(lambda move=move: move(points))
        assert moved is None or (moved.shape == points.shape and bool(torch.isfinite(moved).all()))
    labels = torch.randint(0, 5, (1, *shape))
    assert trace.transfer(labels).shape == (1, *shape)
    ledger = trace.ledger()
    assert trace.warped.shape == (1, *shape)
    if ledger.residual is not None:
        assert bool(torch.isfinite(ledger.residual).all())


def _answer(call):
    """What a call returns; None where it is refused with the name of an argument."""
    try:
        return call()
    except (TypeError, ValueError) as error:
        problem = str(error)
    assert re.match(r"[\w. ]+: ", problem), f"does not name an argument: {problem}"
    return None
