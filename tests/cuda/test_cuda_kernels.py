"""The CUDA kernels' own source, run by the emulator, against the reference. No GPU, no nvcc."""

import itertools
import subprocess
import sys

import pytest
import torch
from emulator import build, resident, sequence
from emulator.resident import Step
from emulator.sequence import DTYPES, Case

# The variants that are built for each type (csrc/cuda/instances/list.h).
SIMT = {
    "float32": ["Simt<float, 1>", "Simt<float, 4>"],
    "float64": ["Simt<double, 1>", "Simt<double, 2>"],
    "float16": ["Simt<Half, 1>"],
    "bfloat16": ["Simt<Bfloat16, 1>"],
}
NAMES = {"float32": "float", "float16": "Half", "bfloat16": "Bfloat16"}  # on tensor cores
TENSOR = {"float32": ["1", "4"], "float16": ["1, 8", "4, 4"], "bfloat16": ["1, 8", "4, 4"]}
PERSISTENT = {  # on tensor cores
    "persistent_block": ["TensorBlock<{}, 64>", "TensorBlock<{}, 128>"],
    "persistent_cluster": ["TensorCluster<{}>"],
    "persistent_grid": [
        f"TensorGrid<{{}}, {sizes}>" for sizes in ("1, 8", "1, 16", "4, 8", "4, 16")
    ],
}
VARIANTS = {  # of per_step
    dtype: variants + [f"Tensor<{NAMES[dtype]}, {sizes}>" for sizes in TENSOR.get(dtype, [])]
    for dtype, variants in SIMT.items()
}
TYPES = [(dtype, variant) for dtype, variants in VARIANTS.items() for variant in variants]
ON_TENSOR_CORES = [
    (kernel, dtype, variant.format(name))
    for kernel, variants in PERSISTENT.items()
    for dtype, name in NAMES.items()
    for variant in variants
]
KERNELS = [
    *(("per_step", *key) for key in TYPES),
    *(
        (kernel, dtype, variant)
        for kernel in PERSISTENT
        for dtype in SIMT
        for variant in SIMT[dtype]
    ),
    *ON_TENSOR_CORES,
]
# Largest errors of numbers of order 1: h, saved gates and gradients are rounded at every step.
BOUNDS = {"float64": 1e-12, "float32": 1e-5, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 6e-2}


def bound(dtype, variant):
    return BOUNDS["tf32" if dtype == "float32" and "Tensor" in variant else dtype]


def assert_right(case, kernel, variant, seed, kind="plain"):
    dtype = str(case.dtype).removeprefix("torch.")
    forward, grads = sequence.truth(case)
    found = sequence.forward(case, kernel, variant, seed, kind)
    back = sequence.backward(case, found, kernel, variant, seed + 1, kind)
    for name, expected in (*forward.items(), *grads.items()):
        got = (found if name in found else back)[name].double()
        scale = 1 + expected.abs().max()
        error = ((got - expected).abs().max() / scale).item() if expected.numel() else 0.0
        assert error <= bound(dtype, variant), (name, error)
    return {**found, **back}


def test_all_that_is_built_is_tested():
    names = sequence.kernels().names()
    wanted = [
        f"{direction}_{kernel} {dtype} {variant}"
        for kernel, dtype, variant in KERNELS
        for direction in ("forward", "backward")
    ]
    assert sorted(names) == sorted(
        wanted + [f"inference_step {dtype} {variant}" for dtype, variant in TYPES]
    )


SIZES = [(1, 1, 1), (3, 2, 5), (4, 17, 33), (2, 5, 64), (5, 3, 16), (3, 2, 70)]
CONTROLS = [
    {},
    {"reverse": True},
    {"resets": True},
    {"lengths": True},
    {"masked": True},
    {"reverse": True, "resets": True, "lengths": True, "masked": True},
]


@pytest.mark.sampled
@pytest.mark.parametrize(("kernel", "dtype", "variant"), KERNELS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes(kernel, dtype, variant, size):
    T, B, H = size
    if "TensorBlock" in variant and H > 64:
        H = 128 if "128" in variant else 64
    assert_right(Case(T, B, H, H, DTYPES[dtype]), kernel, variant, seed=1)


@pytest.mark.sampled
@pytest.mark.parametrize(("kernel", "dtype", "variant"), KERNELS)
@pytest.mark.parametrize("controls", CONTROLS, ids=lambda c: "-".join(c) or "plain")
def test_controls(kernel, dtype, variant, controls):
    assert_right(Case(5, 6, 20, 20, DTYPES[dtype], **controls), kernel, variant, seed=2)


@pytest.mark.sampled
@pytest.mark.parametrize(("dtype", "variant"), TYPES)
@pytest.mark.parametrize("controls", CONTROLS, ids=lambda c: "-".join(c) or "plain")
def test_projection(dtype, variant, controls):
    assert_right(Case(4, 5, 21, 9, DTYPES[dtype], **controls), "per_step", variant, seed=3)


@pytest.mark.sampled(most=10)
@pytest.mark.parametrize(("kernel", "dtype", "variant"), KERNELS)
def test_any_order_of_threads_gives_the_same_bits(kernel, dtype, variant):
    case = Case(3, 4, 18, 18, DTYPES[dtype], resets=True, lengths=True)
    first, *others = [assert_right(case, kernel, variant, seed) for seed in (0, 11, 12, 13)]
    for other, name in itertools.product(others, first):
        assert sequence.as_array(first[name]).tobytes() == sequence.as_array(other[name]).tobytes()


def first_rows(case, count):
    """The same call with the first rows only."""
    few = Case(case.T, case.B, case.H, case.P, case.dtype)
    few.B = count
    for name in ("h0", "c0", "grad_h_n", "grad_c_n"):
        setattr(few, name, getattr(few, name)[:count].clone())
    for name in ("gates_x", "grad_y"):
        setattr(few, name, getattr(few, name)[:, :count].clone())
    return few


@pytest.mark.parametrize(("dtype", "variant"), TYPES)
def test_all_kernels_and_any_number_of_rows_give_the_same_bits(dtype, variant):
    case = Case(3, 7, 18, 18, DTYPES[dtype])
    steps = sequence.forward(case, "per_step", variant, 1)
    for kernel in (
        ("persistent_block", "persistent_grid", "persistent_cluster")
        if variant in SIMT[dtype]
        else ()
    ):
        other = sequence.forward(case, kernel, variant, 1)
        for name in steps:
            assert torch.equal(steps[name], other[name]), name
    part = sequence.forward(first_rows(case, 2), "per_step", variant, 1)
    assert torch.equal(part["y"], steps["y"][:, :2])


@pytest.mark.parametrize("dtype", NAMES)
def test_tiles_of_any_size_give_the_same_bits(dtype):
    case = Case(3, 20, 70, 70, DTYPES[dtype])
    variants = [variant.format(NAMES[dtype]) for variant in PERSISTENT["persistent_grid"]]
    first, *others = [sequence.forward(case, "persistent_grid", variant, 1) for variant in variants]
    for other in others:
        for name in first:
            assert torch.equal(first[name], other[name]), name
    backs = [sequence.backward(case, first, "persistent_grid", variant, 2) for variant in variants]
    for other in backs[1:]:
        for name in other:
            assert torch.equal(backs[0][name], other[name]), name
    for variant in variants:
        part = sequence.forward(first_rows(case, 2), "persistent_grid", variant, 1)
        assert torch.equal(part["y"], first["y"][:, :2])


# ---- one step on resident state ------------------------------------------------------------------

STEPS = {
    "plain": {},
    "no_bias": {"bias": False},
    "resets": {"resets": True},
    "from_zero": {"from_zero": True},
    "slots": {"rows": [4, 0, 7, 2, 5], "slots": 9},
    "padding": {"rows": [-1, 3, -1, 0, 1], "slots": 5, "resets": True},
    "all_padding": {"rows": [-1] * 5, "slots": 3},
}


@pytest.mark.sampled
@pytest.mark.parametrize(("dtype", "variant"), TYPES)
@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("options", STEPS.values(), ids=STEPS)
def test_a_resident_step(dtype, variant, projection, options):
    check_step(Step(5, 7, 18, 6 if projection else 18, DTYPES[dtype], **options), variant)


# Rows of whole 16 bytes, and each number of rows that has its own kernel.
@pytest.mark.sampled
@pytest.mark.parametrize(("dtype", "variant"), TYPES)
@pytest.mark.parametrize("B", [1, 4, 16, 17, 33])
def test_a_resident_step_of_any_number_of_rows(dtype, variant, B):
    check_step(Step(B, 72, 24, 24, DTYPES[dtype], resets=True), variant)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_a_resident_step_are_each_on_its_own(dtype):
    variant = VARIANTS[dtype][0]
    step = Step(16, 40, 24, 24, DTYPES[dtype])
    whole = resident.run(step, variant, 1)
    for B in (1, 3, 9):
        few = Step(16, 40, 24, 24, DTYPES[dtype])
        few.B = few.slots = B
        few.x, few.h, few.c = few.x[:B].clone(), few.h[:B].clone(), few.c[:B].clone()
        for name, part in resident.run(few, variant, 1).items():
            assert torch.equal(part, whole[name][:B]), name


def check_step(step, variant):
    dtype = str(step.dtype).removeprefix("torch.")
    if step.resets or step.from_zero:  # an unused state may hold NaN
        for b in range(step.B):
            if step.slot(b) >= 0 and (step.from_zero or step.reset[b]):
                step.h[step.slot(b)], step.c[step.slot(b)] = float("nan"), float("nan")
    found, expected = resident.run(step, variant, 1), resident.truth(step)
    for name, true in expected.items():
        error = (found[name].double() - true).abs().nan_to_num(0).max() / (1 + true.abs().max())
        assert torch.equal(found[name].isnan(), true.isnan()), name
        assert error <= bound(dtype, variant), (name, error)
    idle = [s for s in range(step.slots) if s not in [step.slot(b) for b in range(step.B)]]
    assert found["h"][idle].equal(step.h[idle]) and found["c"][idle].equal(step.c[idle])


@pytest.mark.parametrize("variant", VARIANTS["float32"])
def test_a_resident_step_in_any_order_of_threads(variant):
    step = Step(40, 9, 70, 70, torch.float32, rows=list(range(40))[::-1], slots=40)
    first, *others = [resident.run(step, variant, seed) for seed in (0, 5, 6)]
    for other, name in itertools.product(others, first):
        assert first[name].equal(other[name]), name
    # More elements of h than the threads that copy them.
    torch.testing.assert_close(first["h"].double(), resident.truth(step)["h"], atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("indices", "error", "rows"),
    [
        ([2, 0, -1], 0, [2, 0, -1]),
        ([2, 3, -1], 1, [2, -1, -1]),
        ([-2, 1], 1, [-1, 1]),
        ([], 0, []),
        (list(range(200))[::-1], 1, None),
    ],
)
def test_slots_are_looked_at(indices, error, rows):
    found, code = sequence.kernels().read_slots(indices, 3, 1)
    assert code == error
    assert rows is None or found.tolist() == rows


def test_more_rows_and_slots_than_threads():
    indices = [7 * b % 600 for b in range(500)]
    found, code = sequence.kernels().read_slots(indices, 600, 1)
    assert code == 0 and found.tolist() == indices


def test_a_slot_named_twice_is_an_error_and_taken_once():
    for seed in range(5):
        found, code = sequence.kernels().read_slots([1, 4, 1, -1], 5, seed)
        assert code == 2
        assert sorted(found.tolist()) == [-1, -1, 1, 4]


# ---- ThreadSanitizer -----------------------------------------------------------------------------


@pytest.mark.slow
def test_no_read_goes_past_a_barrier_or_a_flag():
    if reason := build.lacking("tsan"):
        pytest.skip(reason)
    command = [sys.executable, str(build.HERE / "smoke_kernels.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "ThreadSanitizer" not in done.stderr, done.stderr[-4000:]
