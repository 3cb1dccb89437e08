"""Cases of `medtrace.transforms`."""

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from monai.data.meta_tensor import MetaTensor

from medtrace import transforms
from tests.fuzz.calls import Case, Draw, Given, affine, check, computed_type, filled, sizes, tensor

EXEMPT = {
    "MisalignmentFields": "a NamedTuple that `misalignment_between` fills",
    "RigidTransform": "a NamedTuple that `RigidAlignment.estimate` fills",
}
VARIED = ("normal", "unit")
NAMES = ("img", "source", "target", "moving", "fixed", "seg")
LANDMARKS = transforms.HistogramLandmarks((1, 50, 99), {"source": (0, 40, 100), "target": (0, 70, 100)})


def image(draw: Draw, shape: tuple[int, ...], fills: tuple[str, ...] = VARIED) -> Any:
    """An image (C, *spatial): a tensor, an array, or a MetaTensor with an affine."""
    kind = draw(st.sampled_from(["tensor", "array", "with affine"]))
    values = tensor(draw, shape, fills)
    if kind == "array":
        return values.detach().double().numpy().astype(draw(st.sampled_from([np.float32, np.float64])))
    return MetaTensor(values.detach(), affine=affine(draw)) if kind == "with affine" else values


def shape_of(draw: Draw, channels: int | None = None, **limits: Any) -> tuple[int, ...]:
    return (channels or draw(st.integers(1, 3)), *sizes(draw, **limits))


def region(draw: Draw, shape: tuple[int, ...]) -> torch.Tensor | None:
    """No mask, or one (1, *spatial) that leaves out a tenth."""
    values = filled((1, *shape[1:]), torch.float32, "unit", draw(st.integers(0, 99))) > 0.2
    return draw(st.sampled_from([None, None, values, values.float()])) if bool(values.sum() > 3) else None


def called(kind: Any, *settings: str, seeded: bool = False, there_and_back: bool = False, **fixed: Any) -> Any:
    """A transform as one function of its settings and of what it is given; with its inverse's answer, if wanted."""

    def call(**given: Any) -> Any:
        seed = given.pop("seed", 0)
        transform = kind(**{name: given.pop(name) for name in settings}, **fixed)
        if seeded:
            transform.set_random_state(seed)
        answer = transform(**given)
        return (answer, transform.inverse(answer)) if there_and_back else answer

    return call


def as_tensor(value: Any) -> torch.Tensor:
    return torch.as_tensor(np.asarray(value)) if not isinstance(value, torch.Tensor) else value


def _standardized(draw: Draw) -> Given:
    shape = shape_of(draw, minimum=3)
    masking = draw(st.sampled_from([None, transforms.above_mean]))
    contrast = draw(st.sampled_from(["source", "target"]))
    given = {"img": image(draw, shape), "mask": None if masking else region(draw, shape)}
    return {**given, "landmarks": LANDMARKS, "contrast": contrast, "masking": masking}


def _standardized_law(answer: Any, given: Given) -> None:
    out, back = answer
    own = as_tensor(given["img"])
    check(out, own.shape, computed_type(own))
    check(back, own.shape, computed_type(own))


def _trained(draw: Draw) -> Given:
    shapes = [shape_of(draw, minimum=3) for _ in range(draw(st.integers(1, 3)))]
    return {
        "images": [image(draw, shape) for shape in shapes],
        "masks": draw(st.sampled_from([None, transforms.above_mean, [torch.ones(1, *shape[1:]) for shape in shapes]])),
        "cutoff": draw(st.sampled_from([(0.01, 0.99), [0.0, 1.0]])),
        "percentiles": draw(st.sampled_from([(50.0,), [10, 50, 90], []])),
        "standard_range": draw(st.sampled_from([(0.0, 100.0), [-1, 1]])),
        "contrast": draw(st.sampled_from(["image", "t1"])),
    }


def _trained_law(answer: Any, given: Given) -> None:
    assert isinstance(answer, transforms.HistogramLandmarks)
    values = answer.of(str(given["contrast"]))
    low, high = given["standard_range"]
    assert len(values) == len(given["percentiles"]) + 2
    assert np.allclose((values[0], values[-1]), (low, high))
    assert sorted(values) == list(values)


def _landmarks(draw: Draw) -> Given:
    return {
        "percentiles": draw(st.sampled_from([(1, 50, 99), [0.0, 25.0, 100.0], np.array([5.0, 50.0, 95.0])])),
        "contrasts": draw(st.sampled_from([{"t1": (0, 3, 9)}, {"t1": [0.0, 1.0, 1.0], "t2": (1, 2, 3)}])),
        "standard_range": draw(st.sampled_from([(0, 100), [-1.0, 1.0]])),
    }


def _landmarks_law(answer: Any, _: Given) -> None:
    assert all(len(answer.of(name)) == len(answer.percentiles) for name in answer.contrasts)


def item(draw: Draw, *keys: str, **limits: Any) -> Given:
    """Images under their keys, all of one grid, beside something else."""
    shape = shape_of(draw, **limits)
    return {**{key: image(draw, shape) for key in keys}, "name": "someone"}


def _items_law(*keys: str) -> Any:
    def law(answer: Any, given: Given) -> None:
        answers = answer if isinstance(answer, tuple) else (answer,)
        for one in answers:
            assert set(given["data"]) <= set(one)
            for key in keys:
                own = as_tensor(given["data"][key])
                check(one[key], own.shape, computed_type(own))

    return law


def _standardized_items(draw: Draw) -> Given:
    return {"data": item(draw, "source", "target", minimum=3), "landmarks": LANDMARKS, "contrasts": None}


def _identical(draw: Draw) -> Given:
    shape = shape_of(draw)
    pair = {key: tensor(draw, shape) for key in ("source", "target")}
    masks = {"mask": filled((1, *shape[1:]), torch.float32, "unit", 1)}
    return {"data": draw(st.sampled_from([pair, {**pair, **masks}])), "prob": draw(st.sampled_from([0.0, 0.5, 1.0]))}


def _identical_law(answer: Any, given: Given) -> None:
    assert set(answer) == set(given["data"])
    if given["prob"] == 1.0:
        assert answer["target"] is not answer["source"]
        assert bool(torch.isclose(answer["target"], answer["source"], rtol=0, atol=0, equal_nan=True).all())
        assert not bool(answer.get("mask", torch.zeros(1)).any())


def _dropped(draw: Draw) -> Given:
    shape = shape_of(draw)
    data = {key: tensor(draw, shape, VARIED) for key in PAIR}
    if draw(st.booleans()):
        data["source_present"] = torch.arange(shape[0]) < draw(st.integers(1, shape[0]))
    return {"data": {**data, "name": "someone"}, "prob": draw(st.sampled_from([0.0, 0.5, 0.99])), "seed": 3}


def _dropped_law(answer: Any, given: Given) -> None:
    """Each channel is as it was or nothing but background; one at least stays of those that were there."""
    assert set(answer) == set(given["data"])
    for key in PAIR:
        own, out = given["data"][key], answer[key]
        check(out, own.shape, own.dtype)
        kept = [torch.equal(one.nan_to_num(), other.nan_to_num()) for one, other in zip(own, out)]
        assert all(same or bool((one == -1).all()) for same, one in zip(kept, out))
        assert any(kept)
        assert given["prob"] > 0 or all(kept)
    if "source_present" in answer:
        assert bool(answer["source_present"].any())
        assert not bool((answer["source_present"] & ~given["data"]["source_present"]).any())


def _moves(draw: Draw) -> Given:
    bounds = transforms.Misalignment(5, 5, 5, nonrigid_percent=draw(st.sampled_from([0, 3])), nonrigid_intervals=3)
    level = draw(st.sampled_from(["0", 3, "5", "table1", "nonrigid", None]))
    mode, fill = draw(st.sampled_from(["bilinear", "nearest"])), draw(st.sampled_from(["border", 0, -1.0]))
    own = {"level": level, "misalignment": bounds if level is None else None, "mode": mode, "fill": fill}
    return {**own, "prob": draw(st.sampled_from([0.0, 1.0])), "seed": 3}


def _moved(draw: Draw) -> Given:
    return {**_moves(draw), "img": image(draw, shape_of(draw))}


def _moved_law(answer: Any, given: Given) -> None:
    own = as_tensor(given["img"])
    check(answer, own.shape, answer.dtype)
    floating = (own.dtype, computed_type(own))
    assert answer.dtype in (floating if own.is_floating_point() else (own.dtype,))


def _moved_items(draw: Draw) -> Given:
    return {**_moves(draw), "data": item(draw, "source", "target"), "together": draw(st.booleans())}


def _moved_items_law(answer: Any, given: Given) -> None:
    assert set(answer) == set(given["data"])
    for key in ("source", "target"):
        _moved_law(answer[key], {"img": given["data"][key]})


def _bounds(**given: Any) -> Any:
    dims = given.pop("spatial_dims")
    return transforms.Misalignment(**given).draw(np.random.RandomState(0), dims)


def _bounded(draw: Draw) -> Given:
    return {
        "rotation_degrees": draw(st.floats(0, 180)),
        "translation_percent": draw(st.floats(0, 100)),
        "scale_percent": draw(st.floats(0, 99)),
        "nonrigid_percent": draw(st.floats(0, 3)),
        "nonrigid_intervals": draw(st.integers(1, 5)),
        "spatial_dims": draw(st.sampled_from([2, 3])),
    }


def _bounded_law(answer: Any, given: Given) -> None:
    assert len(answer.translation_percent) == given["spatial_dims"]
    assert max(map(abs, answer.translation_percent)) <= given["translation_percent"]
    assert max(map(abs, answer.angles_degrees)) <= given["rotation_degrees"]
    assert answer.scale > 0


def _drawn_moves(draw: Draw) -> Given:
    shape = sizes(draw)
    pair = [
        transforms.MISALIGNMENT_LEVELS[draw(st.sampled_from(["0", "5", "nonrigid"]))].draw(
            np.random.RandomState(seed), len(shape)
        )
        for seed in range(2)
    ]
    spacing = draw(st.sampled_from([None, (1.0, 2.0, 0.5)[: len(shape)]]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return {"source": pair[0], "target": pair[1], "shape": shape, "spacing": spacing, "dtype": dtype}


def _one_drawn_move(draw: Draw) -> Any:
    """A move of 2D and 3D by turns: the draw itself is what is tested, so that none of its entries is corrupted."""
    given = _drawn_moves(draw)
    seed = 2 * draw(st.integers(0, 9)) + len(given["shape"]) - 2
    return {name: given[name] for name in ("shape", "spacing", "dtype")} | {"seed": seed}


def _between_law(answer: Any, given: Given) -> None:
    shape = (len(given["shape"]), *given["shape"])
    check(answer.ddf, shape, given["dtype"])
    check(answer.inverse_ddf, shape, given["dtype"])


def _move_of(seed: int, shape: Any, spacing: Any, dtype: Any) -> Any:
    """The displacement of a draw, and its points round trip."""
    source = transforms.MISALIGNMENT_LEVELS["nonrigid"].draw(np.random.RandomState(seed), 2 + seed % 2)
    field = source.displacement(shape, spacing, dtype)
    points = torch.rand(len(shape), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5
    away = source.push(source.pull(points, shape, spacing), shape, spacing) - points
    return field, away.abs().max()


def _move_law(answer: Any, given: Given) -> None:
    field, away = answer
    check(field, (len(given["shape"]), *given["shape"]), given["dtype"])
    assert float(away) < 1e-4


SEARCH = {"levels": (2, 1), "iterations": 3, "samples": 500}


def _aligned(draw: Draw) -> Given:
    shape = shape_of(draw, minimum=5)
    moving = image(draw, shape)
    own = moving.affine if isinstance(moving, MetaTensor) else torch.eye(4)
    fixed = MetaTensor(filled(shape, torch.float32, "unit", 1), affine=own)
    masks = {"moving_mask": region(draw, shape), "fixed_mask": None}
    settings = {
        "initial": draw(st.sampled_from(["auto", "identity", "geometry", "moments"])),
        "resample": draw(st.booleans()),
        "mode": draw(st.sampled_from(["bilinear", "nearest"])),
        "fill": draw(st.sampled_from([None, -1.0])),
        **SEARCH,
    }
    return {"moving": moving, "fixed": fixed, **masks, **settings}


def _aligned_law(answer: Any, given: Given) -> None:
    out, back = answer
    own, onto = as_tensor(given["moving"]), as_tensor(given["fixed"])
    grid = onto.shape[1:] if given["resample"] else own.shape[1:]
    check(out, (own.shape[0], *grid), out.dtype)
    check(back, own.shape, back.dtype)
    assert isinstance(out, MetaTensor)
    assert tuple(out.affine.shape) == (4, 4)


def _aligned_items(draw: Draw) -> Given:
    shape = shape_of(draw, minimum=5)
    moving = MetaTensor(filled(shape, torch.float32, "unit", 2), affine=affine(draw))
    fixed = MetaTensor(filled(shape, torch.float32, "unit", 1), affine=moving.affine)
    seg = MetaTensor((filled((1, *shape[1:]), torch.float32, "unit", 2) > 0.5).byte(), affine=moving.affine)
    return {"data": {"moving": moving, "fixed": fixed, "seg": seg, "name": "someone"}, **SEARCH}


def _aligned_items_law(answer: Any, given: Given) -> None:
    out, back = answer
    assert set(out) == set(back) == set(given["data"])
    for key in ("moving", "seg"):
        own = as_tensor(given["data"][key])
        check(out[key], (own.shape[0], *as_tensor(given["data"]["fixed"]).shape[1:]), out[key].dtype)
        check(back[key], own.shape, back[key].dtype)
    assert out["seg"].dtype == as_tensor(given["data"]["seg"]).dtype


def _registered_items(draw: Draw) -> Given:
    data = _aligned_items(draw)["data"]
    settings = {
        "alignment": draw(st.sampled_from(["none", "rigid"])),
        "similarity": draw(st.sampled_from(["auto", "lncc", "mse"])),
        "check_starts": draw(st.booleans()),
    }
    return {"data": data, **settings}


def _registered_items_law(answer: Any, given: Given) -> None:
    out, back = answer
    assert set(out) == {*given["data"], "ddf", "verdict"}
    assert set(back) == set(given["data"])
    onto = as_tensor(given["data"]["fixed"]).shape[1:]
    check(out["ddf"], (len(onto), *onto), torch.float32)
    _aligned_items_law(({name: out[name] for name in back}, back), given)


def _sliced(draw: Draw) -> Given:
    shape = shape_of(draw, dims=3, minimum=2)
    how = draw(st.sampled_from([{"count": 1, "indices": None}, {"count": None, "indices": [0, -1]}]))
    return {
        "img": image(draw, shape),
        "axis": draw(st.sampled_from(["axial", "coronal", "sagittal", *"RLAPSI"])),
        **how,
        "center": draw(st.sampled_from(["volume", "foreground"])),
        "canonical": draw(st.booleans()),
    }


def _sliced_law(answer: Any, given: Given) -> None:
    own = as_tensor(given["img"])
    wanted = given["count"] if given["indices"] is None else len(given["indices"])
    assert wanted is None or len(answer) == wanted
    for one in answer:
        assert isinstance(one, MetaTensor)
        assert (one.ndim, one.dtype) == (3, own.dtype)
        assert sorted((*one.shape[1:], own[0].numel() // one[0].numel())) == sorted(own.shape[1:])
        assert tuple(one.affine.shape) == (4, 4)
        assert bool(torch.isfinite(one.affine).all())


def _sliced_items(draw: Draw) -> Given:
    shape = shape_of(draw, dims=3, minimum=2)
    place = affine(draw)
    pair = {key: MetaTensor(tensor(draw, shape).detach(), affine=place) for key in ("source", "target")}
    return {"data": {**pair, "name": "someone"}, "axis": draw(st.sampled_from(["axial", "R"])), "count": 1}


def _sliced_items_law(answer: Any, given: Given) -> None:
    assert len(answer) == (given["count"] or len(answer))
    for one in answer:
        assert set(one) == set(given["data"])
        _sliced_law([one["source"]], {"img": given["data"]["source"], "count": 1, "indices": None})


def _mapped(name: str) -> Any:
    def arguments(draw: Draw) -> Given:
        settings = {
            "method": draw(st.sampled_from(transforms.structure_map.__globals__["METHODS"])),
            "classes": draw(st.sampled_from([2, 3, 4])),
            "gamma": draw(st.sampled_from([5e-4, 1e-2])),
            "directions": draw(st.sampled_from([None, "axes", "diagonals"])),
        }
        fills = (*VARIED, "constant", "zero", "tiny")
        return {name: image(draw, shape_of(draw, 1), fills), **settings}

    return arguments


def _mapped_law(name: str) -> Any:
    def law(answer: Any, given: Given) -> None:
        check(answer, as_tensor(given[name]).shape, torch.float32, 0, 1)
        steps = as_tensor(answer) * (given["classes"] - 1)
        torch.testing.assert_close(steps, steps.round())

    return law


def _mapped_items(draw: Draw) -> Given:
    settings = _mapped("source")(draw)
    shape = shape_of(draw, 1)
    data = {key: image(draw, shape) for key in ("source", "target")}
    return {"data": data, **{name: settings[name] for name in ("method", "gamma", "directions", "classes")}}


def _mapped_items_law(answer: Any, given: Given) -> None:
    for key in ("source", "target"):
        _mapped_law("img")(answer[f"{key}_structure"], {"img": given["data"][key], "classes": given["classes"]})


SETTINGS = ("initial", "resample", "mode", "fill", "levels", "iterations", "samples")
PAIR = ("source", "target")
MISSING = (KeyError,)
"""MONAI's own error for an item without a key."""
CASES = {
    "HistogramLandmarks": Case(transforms.HistogramLandmarks, _landmarks, _landmarks_law, ("landmarks",)),
    "HistogramStandardization": Case(
        called(transforms.HistogramStandardization, "landmarks", "contrast", "masking", there_and_back=True),
        _standardized,
        _standardized_law,
    ),
    "HistogramStandardization.train": Case(
        transforms.HistogramStandardization.train, _trained, _trained_law, ("image", "landmarks")
    ),
    "HistogramStandardizationd": Case(
        called(transforms.HistogramStandardizationd, "landmarks", "contrasts", keys=PAIR, there_and_back=True),
        _standardized_items,
        _items_law(*PAIR),
        (*NAMES, "contrast"),
        errors=MISSING,
    ),
    "Misalignment": Case(_bounds, _bounded, _bounded_law),
    "MisalignmentDraw": Case(_move_of, _one_drawn_move, _move_law),
    "RandDropChannelsd": Case(
        called(transforms.RandDropChannelsd, "prob", seeded=True, keys=PAIR),
        _dropped,
        _dropped_law,
        (*NAMES, "source_present"),
        errors=MISSING,
    ),
    "RandIdenticalPaird": Case(
        called(transforms.RandIdenticalPaird, "prob", seeded=True), _identical, _identical_law, NAMES, errors=MISSING
    ),
    "RandMisalign": Case(
        called(transforms.RandMisalign, "level", "misalignment", "prob", "mode", "fill", seeded=True),
        _moved,
        _moved_law,
    ),
    "RandMisalignd": Case(
        called(
            transforms.RandMisalignd,
            *("level", "misalignment", "prob", "mode", "fill", "together"),
            seeded=True,
            keys=PAIR,
        ),
        _moved_items,
        _moved_items_law,
        NAMES,
        errors=MISSING,
    ),
    "RegisterPaird": Case(
        called(
            transforms.RegisterPaird,
            *("alignment", "similarity", "check_starts"),
            keys=("moving", "seg"),
            fixed_key="fixed",
            mode=("bilinear", "nearest"),
            ddf_key="ddf",
            verdict_key="verdict",
            on_fail="keep",
            there_and_back=True,
        ),
        _registered_items,
        _registered_items_law,
        NAMES,
        errors=MISSING,
    ),
    "RigidAlignment": Case(
        called(transforms.RigidAlignment, *SETTINGS, there_and_back=True),
        _aligned,
        _aligned_law,
        ("data",),
        errors=(RuntimeError,),
    ),
    "RigidAlignmentd": Case(
        called(
            transforms.RigidAlignmentd,
            *("levels", "iterations", "samples"),
            keys=("moving", "seg"),
            fixed_key="fixed",
            mode=("bilinear", "nearest"),
            there_and_back=True,
        ),
        _aligned_items,
        _aligned_items_law,
        NAMES,
        errors=(RuntimeError, KeyError),
    ),
    "SliceExtraction": Case(
        called(transforms.SliceExtraction, "axis", "count", "indices", "center", "canonical"), _sliced, _sliced_law
    ),
    "SliceExtractiond": Case(
        called(transforms.SliceExtractiond, "axis", "count", keys=PAIR),
        _sliced_items,
        _sliced_items_law,
        NAMES,
        errors=MISSING,
    ),
    "StructureMap": Case(
        called(transforms.StructureMap, "method", "gamma", "directions", "classes"), _mapped("img"), _mapped_law("img")
    ),
    "StructureMapd": Case(
        called(transforms.StructureMapd, "method", "gamma", "directions", "classes", keys=PAIR),
        _mapped_items,
        _mapped_items_law,
        NAMES,
        errors=MISSING,
    ),
    "above_mean": Case(
        transforms.above_mean,
        lambda draw: {"image": tensor(draw, shape_of(draw))},
        lambda answer, given: check(answer, given["image"].shape, torch.bool),
    ),
    "misalignment_between": Case(transforms.misalignment_between, _drawn_moves, _between_law),
    "structure_map": Case(transforms.structure_map, _mapped("image"), _mapped_law("image")),
}
