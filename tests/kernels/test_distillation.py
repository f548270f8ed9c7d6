"""Feature distillation: every implementation against float64 autograd of the formulas on paper."""

import importlib.util

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vkdsurgeon_kernels import DISTANCES, feature_distillation, target_power
from vkdsurgeon_kernels.backend import compile_obstacle
from vkdsurgeon_kernels.distillation.formula import distance_per_sample, distillation_loss

needs_compiler = pytest.mark.skipif(compile_obstacle("cpu") is not None, reason="torch.compile cannot run")
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
COMPILED = pytest.param("compiled", marks=needs_compiler)
TRITON = pytest.param("triton", marks=needs_triton)
IMPLEMENTATIONS = ["reference", COMPILED, TRITON]
# Every test of what is compiled compiles it anew, for seconds: what one of them shows is enough for every day.
SELDOM_COMPILED = ["reference", pytest.param("compiled", marks=[needs_compiler, pytest.mark.campaign]), TRITON]
# What plain PyTorch gets wrong in the same dtype, times this, is what an implementation may get wrong.
TIMES_PLAIN = 4

SUM = {"nmse": 1.0, "mse": 0.3, "cosine": 0.7, "smooth_l1": 0.2}
TWO_LAYERS = [(3, 63, 100), (3, 10, 24)]

pytestmark = pytest.mark.usefixtures("poisoned_empty")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module", autouse=True)
def tensors_are_made_on_the_gpu():
    """Where there is one: Triton takes no others there."""
    torch.set_default_device(DEVICE)
    yield
    torch.set_default_device(None)


class Case:
    """Random features of several layers, with signed weights and an upstream gradient that is not one."""

    def __init__(self, shapes, dtype=torch.float32, masked=False, weighted=True):
        generator = torch.Generator("cpu").manual_seed(sum(size for shape in shapes for size in shape))

        def draw(shape):
            return torch.randn(shape, generator=generator, device="cpu").to(DEVICE)

        batch = shapes[0][0]
        self.students = [draw(shape).to(dtype) for shape in shapes]
        self.targets = [(1.7 * draw(shape)).to(dtype) for shape in shapes]
        self.masks = [draw(shape[:2]) < 0.4 for shape in shapes] if masked else None
        self.upstream = torch.linspace(-1.5, 2.0, batch)
        self.layer_weights = [0.5 + layer for layer in range(len(shapes))] if weighted else None
        self.sample_weights = torch.linspace(1.0, -0.7, batch) if weighted else None

    def truth(self, distance, dtype=torch.float64):
        """Losses and gradients by autograd of the formulas, everything in `dtype`."""
        per_layer = distance if isinstance(distance, list) else [distance] * len(self.students)
        terms = [{chosen: 1.0} if isinstance(chosen, str) else chosen for chosen in per_layer]
        students = [student.to(dtype, copy=True).requires_grad_() for student in self.students]
        targets = [target.to(dtype) for target in self.targets]
        losses = distillation_loss(students, targets, terms, self.layer_weights, self.sample_weights, self.masks)
        losses.backward(self.upstream.to(losses.dtype))
        return losses.detach(), [student.grad for student in students]

    def run(self, distance, implementation, **options):
        students = [student.clone().requires_grad_() for student in self.students]
        options = {
            "layer_weights": self.layer_weights,
            "sample_weights": self.sample_weights,
            "token_mask": self.masks,
            **options,
        }
        losses = feature_distillation(
            students, self.targets, distance=distance, implementation=implementation, **options
        )
        losses.backward(self.upstream.to(losses.dtype))
        return losses.detach(), [student.grad for student in students]


def assert_as_good_as_plain(found, truth, plain):
    """Error against the truth no larger than a small multiple of plain PyTorch's own."""
    for ours, exact, usual in zip(found, truth, plain, strict=True):
        assert ours.shape == exact.shape
        scale = exact.abs().max().item() if exact.numel() else 0.0
        floor = torch.finfo(ours.dtype).eps * scale
        error = (ours.double() - exact).abs().max().item() if exact.numel() else 0.0
        usual_error = (usual.double() - exact).abs().max().item() if exact.numel() else 0.0
        assert error <= TIMES_PLAIN * usual_error + 2 * floor


def assert_matches(case, distance, implementation, **options):
    losses, gradients = case.run(distance, implementation, **options)
    true_losses, true_gradients = case.truth(distance)
    plain_losses, plain_gradients = case.truth(distance, case.students[0].dtype)
    assert_as_good_as_plain([losses], [true_losses], [plain_losses])
    assert_as_good_as_plain(gradients, true_gradients, plain_gradients)


@pytest.mark.parametrize("implementation", ["reference", TRITON])
@pytest.mark.parametrize("distance", [*DISTANCES, SUM], ids=[*DISTANCES, "sum"])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_losses_and_gradients_match_float64(implementation, distance, masked):
    assert_matches(Case(TWO_LAYERS, masked=masked), distance, implementation)


@needs_compiler
@pytest.mark.parametrize(
    ("distance", "masked"),
    [
        pytest.param("nmse", False, marks=pytest.mark.campaign),
        pytest.param("cosine", False, marks=pytest.mark.campaign),
        (SUM, True),
    ],
    ids=["nmse", "cosine", "sum-masked"],
)
def test_compiled_losses_and_gradients_match_float64(distance, masked):
    assert_matches(Case(TWO_LAYERS, masked=masked), distance, "compiled")


@pytest.mark.parametrize("implementation", SELDOM_COMPILED)
@pytest.mark.parametrize("shapes", [[(1, 577, 1000)], [(2, 100, 63)]], ids=["577-1000", "100-63"])
def test_odd_sizes(implementation, shapes):
    assert_matches(Case(shapes), "nmse", implementation)


@needs_triton
@pytest.mark.parametrize("distance", ["nmse", SUM], ids=["nmse", "sum"])
def test_rows_wider_than_a_tile(distance):
    assert_matches(Case([(2, 2, 9000), (2, 3, 50)], masked=True), distance, "triton")


@pytest.mark.parametrize("implementation", ["reference", TRITON])
def test_more_layers_than_one_launch_takes(implementation):
    assert_matches(Case([(1, 1 + layer % 2, 8) for layer in range(10)]), "mse", implementation)


@pytest.mark.parametrize("implementation", ["reference", TRITON])
def test_one_distance_per_layer(implementation):
    assert_matches(Case([*TWO_LAYERS, (3, 4, 8)]), ["cosine", {"mse": 2.0, "nmse": 0.0}, SUM], implementation)


@pytest.mark.parametrize("implementation", ["reference", TRITON])
def test_float16(implementation):
    case = Case(TWO_LAYERS, torch.float16, masked=True)
    losses, gradients = case.run("nmse", implementation)
    true_losses, true_gradients = case.truth("nmse")
    torch.testing.assert_close(losses.double(), true_losses, rtol=1e-5, atol=1e-6)
    for gradient, exact in zip(gradients, true_gradients, strict=True):
        # Rounded twice, when stored and when scaled; below 6e-8 float16 has steps of that size.
        torch.testing.assert_close(gradient.double(), exact, rtol=2**-10, atol=2e-7)


@pytest.mark.parametrize("implementation", ["reference", COMPILED])
def test_bfloat16_is_computed_in_float32(implementation):
    case = Case([(2, 36, 64)], torch.bfloat16)
    losses, (gradient,) = case.run("nmse", implementation)
    true_losses, (exact,) = case.truth("nmse")
    torch.testing.assert_close(losses.double(), true_losses, rtol=1e-5, atol=1e-6)
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient.double(), exact, rtol=2**-7, atol=1e-9)


def test_float64_stays_float64():
    case = Case(TWO_LAYERS, torch.float64, masked=True)
    losses, gradients = case.run(SUM, "auto")
    assert losses.dtype == torch.float64
    torch.testing.assert_close((losses, gradients), case.truth(SUM), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("implementation", ["reference", TRITON])
def test_target_may_have_another_dtype(implementation):
    case = Case(TWO_LAYERS, torch.float16)
    case.targets = [target.float() + 1e-4 for target in case.targets]
    torch.testing.assert_close(case.run("mse", implementation)[0].double(), case.truth("mse")[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", SELDOM_COMPILED)
def test_target_may_be_float8(implementation):
    case = Case([(2, 8, 32)])
    case.targets = [target.to(torch.float8_e4m3fn) for target in case.targets]
    losses, gradients = case.run("nmse", implementation)
    true_losses, true_gradients = case.truth("nmse")
    torch.testing.assert_close(losses.double(), true_losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients[0].double(), true_gradients[0], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("implementation", SELDOM_COMPILED)
def test_what_a_masked_token_holds_never_matters(implementation):
    case = Case(TWO_LAYERS, masked=True)
    clean = case.run(SUM, implementation)
    for features, poison in ((case.students, float("nan")), (case.targets, float("inf"))):
        for layer, mask in zip(features, case.masks, strict=True):
            layer[~mask] = poison
    dirty = case.run(SUM, implementation)
    assert torch.equal(clean[0], dirty[0])
    for before, after, mask in zip(clean[1], dirty[1], case.masks, strict=True):
        assert torch.equal(before, after)
        assert not after[~mask].any()


@pytest.mark.parametrize("implementation", SELDOM_COMPILED)
def test_a_sample_without_a_token_has_loss_and_gradient_zero(implementation):
    case = Case(TWO_LAYERS, masked=True)
    for mask in case.masks:
        mask[1] = False
    losses, gradients = case.run(SUM, implementation)
    assert losses[1] == 0
    assert losses[0] != 0
    assert not any(gradient[1].any() for gradient in gradients)


@pytest.mark.parametrize("implementation", ["reference", TRITON])
def test_a_token_without_direction_has_cosine_zero(implementation):
    student = torch.ones(1, 2, 4)
    student[0, 1] = 0
    student.requires_grad_()
    losses = feature_distillation(student, torch.ones(1, 2, 4), distance="cosine", implementation=implementation)
    losses.sum().backward()
    torch.testing.assert_close(losses, torch.tensor([0.5]))
    assert not student.grad[0, 1].any()


def test_known_values():
    student, target = torch.tensor([[[3.0, 0.0], [0.0, 0.5]]]), torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    values = {name: feature_distillation(student, target, distance=name).item() for name in DISTANCES}
    assert values == pytest.approx({"mse": 4.25 / 4, "nmse": 4.25, "cosine": 0.5, "smooth_l1": (1.5 + 0.125) / 4})


def test_cosine_is_that_of_torch():
    student, target = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    expected = 1 - torch.nn.functional.cosine_similarity(student, target, dim=-1).mean(dim=1)
    torch.testing.assert_close(distance_per_sample(student, target, None, "cosine"), expected)


def test_nmse_is_scale_free():
    case = Case([(2, 9, 8)])
    (student,), (target,) = case.students, case.targets
    torch.testing.assert_close(feature_distillation(student, target), feature_distillation(student * 64, target * 64))


@pytest.mark.parametrize("implementation", ["reference", TRITON])
def test_signed_weights_join_two_batches(implementation):
    case = Case(TWO_LAYERS)
    case.upstream = torch.ones(3)
    joined, gradients = case.run("mse", implementation, sample_weights=torch.tensor([2.0, -1.0, 0.0]))
    plain, plain_gradients = case.run("mse", implementation, sample_weights=None)
    torch.testing.assert_close(joined, plain * torch.tensor([2.0, -1.0, 0.0]))
    for weighted, unweighted in zip(gradients, plain_gradients, strict=True):
        torch.testing.assert_close(weighted[0], 2 * unweighted[0])
        torch.testing.assert_close(weighted[1], -unweighted[1])
        assert not weighted[2].any()


@pytest.mark.parametrize("implementation", ["reference", TRITON])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_a_given_target_power_changes_nothing(implementation, masked):
    case = Case(TWO_LAYERS, masked=masked)
    masks = case.masks or [None, None]
    powers = [target_power(target, mask) for target, mask in zip(case.targets, masks, strict=True)]
    torch.testing.assert_close(
        case.run(SUM, implementation, target_power=powers), case.run(SUM, implementation), rtol=1e-6, atol=1e-8
    )


def test_target_power_is_the_mean_square_of_counting_tokens():
    target = torch.tensor([[[1.0, 3.0], [float("nan"), 0.0]], [[5.0, 5.0], [1.0, 1.0]]])
    mask = torch.tensor([[True, False], [False, False]])
    assert target_power(target, mask).tolist() == [5.0, 0.0]


@pytest.mark.parametrize("implementation", ["reference", TRITON])
def test_inputs_need_not_be_contiguous(implementation):
    case = Case(TWO_LAYERS, masked=True)
    expected = case.run(SUM, implementation)
    students = [student.permute(2, 0, 1).contiguous().permute(1, 2, 0).requires_grad_() for student in case.students]
    targets = [torch.stack([target, target], dim=-1)[..., 0] for target in case.targets]
    masks = [torch.stack([mask, mask], dim=-1)[..., 0] for mask in case.masks]
    assert not students[0].is_contiguous()
    losses = feature_distillation(
        students,
        targets,
        distance=SUM,
        layer_weights=case.layer_weights,
        sample_weights=torch.stack([case.sample_weights] * 2, dim=-1)[:, 0],
        token_mask=masks,
        implementation=implementation,
    )
    losses.backward(case.upstream)
    assert torch.equal(losses, expected[0])
    assert all(torch.equal(student.grad, gradient) for student, gradient in zip(students, expected[1], strict=True))


@pytest.mark.parametrize("implementation", SELDOM_COMPILED)
@pytest.mark.parametrize("shape", [(0, 4, 8), (2, 0, 8), (2, 4, 0)], ids=["batch", "tokens", "channels"])
def test_empty_input_gives_zeros(implementation, shape):
    student = torch.zeros(shape, requires_grad=True)
    losses = feature_distillation(student, torch.zeros(shape), distance=SUM, implementation=implementation)
    losses.sum().backward()
    assert torch.equal(losses, torch.zeros(shape[0]))
    assert student.grad.shape == shape


@pytest.mark.parametrize("implementation", ["reference", TRITON])
def test_an_empty_layer_beside_a_full_one(implementation):
    assert_matches(Case([(3, 5, 8), (3, 0, 8)]), "nmse", implementation)


@pytest.mark.parametrize("implementation", SELDOM_COMPILED)
def test_the_same_bits_every_time(implementation):
    case = Case(TWO_LAYERS, masked=True)
    first, second = (case.run(SUM, implementation) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(one, other) for one, other in zip(first[1], second[1], strict=True))


@pytest.mark.parametrize("implementation", SELDOM_COMPILED)
def test_no_gradient_is_computed_unless_asked_for(implementation):
    case = Case(TWO_LAYERS, masked=True)
    students = [student.requires_grad_() for student in case.students]
    options = {"distance": SUM, "token_mask": case.masks, "implementation": implementation}
    with torch.no_grad():
        silent = feature_distillation(students, case.targets, **options)
    assert not silent.requires_grad
    torch.testing.assert_close(silent, feature_distillation(students, case.targets, **options).detach())


@pytest.mark.parametrize("implementation", ["reference", TRITON])
def test_backward_twice_through_a_kept_graph(implementation):
    case = Case(TWO_LAYERS)
    students = [student.clone().requires_grad_() for student in case.students]
    losses = feature_distillation(students, case.targets, implementation=implementation)
    once = torch.autograd.grad(losses, students, case.upstream, retain_graph=True)
    ones = torch.autograd.grad(losses.sum(), students, retain_graph=True)
    last = torch.autograd.grad(losses, students, 2 * case.upstream)
    for first, plain, doubled in zip(once, ones, last, strict=True):
        torch.testing.assert_close(doubled, 2 * first)
        torch.testing.assert_close(first, plain * case.upstream[:, None, None])
    with pytest.raises(RuntimeError, match="second time"):
        losses.sum().backward()


def test_gradients_of_several_calls_accumulate():
    (student,), (target,) = Case([(2, 5, 8)]).students, Case([(2, 5, 8)]).targets
    student.requires_grad_()
    single = torch.autograd.grad(feature_distillation(student, target).sum(), student)[0]
    for _ in range(3):
        feature_distillation(student, target).sum().backward()
    torch.testing.assert_close(student.grad, 3 * single)


def test_second_derivatives_are_refused():
    student = torch.randn(2, 3, 4, requires_grad=True)
    losses = feature_distillation(student, torch.randn(2, 3, 4))
    with pytest.raises(RuntimeError, match=r"create_graph=True.*formula"):
        torch.autograd.grad(losses.sum(), student, create_graph=True)


@needs_triton
def test_scaling_leaves_samples_with_factor_one_alone():
    from vkdsurgeon_kernels.distillation.triton import scale

    gradients = [torch.randn(3, 100, 100), torch.randn(3, 1, 5)]
    before = [gradient.clone() for gradient in gradients]
    scale(gradients, torch.tensor([[1.0, -2.0, float("nan")]]).repeat(2, 1).t()[:, 0])
    for scaled, gradient in zip(gradients, before, strict=True):
        assert torch.equal(scaled[0], gradient[0])
        assert torch.equal(scaled[1], -2 * gradient[1])
        assert scaled[2].isnan().all()


@needs_triton
def test_scaling_keeps_float64():
    from vkdsurgeon_kernels.distillation.triton import scale

    gradient = torch.randn(3, 10, 10, dtype=torch.float64)
    expected = gradient * 0.3
    scale([gradient], torch.full((3,), 0.3, dtype=torch.float64))
    torch.testing.assert_close(gradient, expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("implementation", ["reference", COMPILED])
def test_autocast_changes_nothing(implementation):
    student, target = torch.randn(2, 30, 40, requires_grad=True), torch.randn(2, 30, 40)
    found = []
    for enabled in (False, True):
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=enabled):
            losses = feature_distillation(
                student, target, distance={"nmse": 1.0, "cosine": 0.5}, implementation=implementation
            )
        found.append((losses, *torch.autograd.grad(losses.sum(), student)))
    for plain, within in zip(*found, strict=True):
        assert torch.equal(plain, within)
        assert plain.dtype == within.dtype


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_gpu_that_is_not_the_current_one():
    student, target = torch.randn(2, 30, 40), torch.randn(2, 30, 40)
    found = []
    for device in ("cuda:0", "cuda:1"):
        moved = student.to(device).requires_grad_()
        losses = feature_distillation(moved, target.to(device), implementation="triton")
        (losses * 2).sum().backward()
        found.append((losses.detach().cpu(), moved.grad.cpu()))
    for first, second in zip(*found, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_operator_is_registered_soundly(masked):
    case = Case(TWO_LAYERS, masked=masked)
    students = [student.requires_grad_() for student in case.students]
    coefficients = [1.0, 0.0, 0.5, 0.0] * 2
    powers = [target_power(target) for target in case.targets] if masked else []
    torch.library.opcheck(
        torch.ops.vkdsurgeon.feature_distillation,
        (students, case.targets, case.masks or [], case.sample_weights, powers, [1.0, 2.0], coefficients, True, "auto"),
    )
    torch.library.opcheck(
        torch.ops.vkdsurgeon.scale_distillation_gradients, ([torch.randn(3, 2, 4)], torch.tensor([1.0, 2.0, 3.0]))
    )


@needs_compiler
@pytest.mark.parametrize("dynamic", [pytest.param(False, marks=pytest.mark.campaign), True], ids=["static", "dynamic"])
def test_a_compiled_program_contains_it_whole(dynamic):
    case = Case(TWO_LAYERS, masked=True)

    def loss(students, targets, masks, weights):
        losses = feature_distillation(
            [2 * student for student in students], targets, distance=SUM, token_mask=masks, sample_weights=weights
        )
        return (losses * case.upstream).sum()

    results = []
    for function in (loss, torch.compile(loss, fullgraph=True, dynamic=dynamic)):
        students = [student.clone().requires_grad_() for student in case.students]
        value = function(students, case.targets, case.masks, case.sample_weights)
        value.backward()
        results.append((value.detach(), [student.grad for student in students]))
    torch.testing.assert_close(*results)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_reference_is_the_derivative_of_the_formula(data):
    batch = data.draw(st.integers(1, 3), label="batch")
    shapes = data.draw(
        st.lists(st.tuples(st.just(batch), st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=3),
        label="shapes",
    )
    coefficient = st.floats(-2, 2).filter(lambda value: value == 0 or abs(value) > 1e-3)
    distance = [
        data.draw(st.dictionaries(st.sampled_from(DISTANCES), coefficient, min_size=1), label="distance")
        for _ in shapes
    ]
    case = Case(shapes, torch.float64, masked=data.draw(st.booleans(), label="masked"))
    torch.testing.assert_close(case.run(distance, "reference"), case.truth(distance), rtol=1e-9, atol=1e-11)


def test_gradcheck():
    case = Case([(2, 3, 4), (2, 2, 5)], torch.float64)
    students = [student.requires_grad_() for student in case.students]
    assert torch.autograd.gradcheck(
        lambda *features: feature_distillation(features, case.targets, distance=SUM), students
    )


GOOD = {"student": torch.zeros(2, 3, 4), "target": torch.zeros(2, 3, 4)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distance": "manhattan"}, "nmse, mse, cosine"),
        ({"distance": {"mse": 1.0, "l3": 1.0}}, "l3"),
        ({"distance": {}}, "expected one of"),
        ({"distance": ["mse", "mse"]}, "2 distances for 1 layers"),
        ({"target": torch.zeros(2, 3, 5)}, "must both be"),
        ({"student": torch.zeros(6, 4), "target": torch.zeros(6, 4)}, r"\[B, N, D\]"),
        ({"student": []}, "0 students"),
        ({"student": [torch.zeros(2, 3, 4)] * 2}, "2 students and 1 targets"),
        ({"student": torch.zeros(2, 3, 4, dtype=torch.int64)}, "torch.int64"),
        ({"target": torch.zeros(2, 3, 4, dtype=torch.int64)}, "float dtype"),
        ({"target": torch.zeros(2, 3, 4, requires_grad=True)}, "detach"),
        (
            {
                "student": [torch.zeros(2, 3, 4), torch.zeros(3, 3, 4)],
                "target": [torch.zeros(2, 3, 4), torch.zeros(3, 3, 4)],
            },
            "2 and 3 samples",
        ),
        (
            {
                "student": [torch.zeros(2, 3, 4), torch.zeros(2, 3, 4, dtype=torch.float16)],
                "target": [torch.zeros(2, 3, 4)] * 2,
            },
            "mix dtypes",
        ),
        ({"student": torch.zeros(2, 3, 4, device="meta")}, "meta"),
        ({"token_mask": torch.ones(2, 4, dtype=torch.bool)}, r"\[B, N\]"),
        ({"token_mask": torch.ones(2, 3)}, "bool"),
        ({"token_mask": [None, None]}, "2 token masks for 1 layers"),
        ({"layer_weights": [1.0, 2.0]}, "one number per layer"),
        ({"sample_weights": torch.ones(3)}, r"\[B\] = \[2\]"),
        ({"sample_weights": torch.ones(2, requires_grad=True)}, "detach"),
        ({"target_power": torch.ones(3)}, r"\[B\] = \(2,\)"),
        ({"target_power": [torch.ones(2)] * 2}, "one per layer"),
        ({"implementation": "fortran"}, "compiled, reference"),
        ({"student": GOOD["student"].double(), "implementation": "triton"}, "not float64"),
        ({"sample_weights": torch.ones(2, device="meta")}, "sample_weights on meta"),
        ({"sample_weights": [1.0, 2.0]}, "sample_weights are a list"),
        ({"token_mask": torch.ones(2, 3, dtype=torch.bool, device="meta")}, "token_mask on meta"),
        ({"target_power": torch.ones(2, device="meta")}, "target_power on meta"),
        ({"target_power": torch.ones(2, requires_grad=True)}, "target_power requires grad"),
        ({"target_power": torch.ones(2, dtype=torch.int64)}, "float"),
        ({"layer_weights": 0.5}, "layer_weights are a float"),
        ({"distance": None}, "NoneType"),
        ({"student": None}, "NoneType"),
    ],
)
def test_wrong_arguments_say_what_is_right(change, message):
    with pytest.raises(ValueError, match=message):
        feature_distillation(**{**GOOD, **change})


@pytest.mark.parametrize(
    ("target", "mask", "message"),
    [
        (torch.zeros(2, 3), None, r"\[B, N, D\]"),
        (torch.zeros(2, 3, 4), torch.ones(2, 3), "bool"),
        (torch.zeros(2, 3, 4), torch.ones(2, 4, dtype=torch.bool), r"\(2, 4\)"),
    ],
)
def test_target_power_says_what_is_wrong(target, mask, message):
    with pytest.raises(ValueError, match=message):
        target_power(target, mask)


def test_whoever_watches_operators_sees_the_operator():
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    student, target = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 4)
    with Watch():
        watched = feature_distillation(student, target)
    assert any("vkdsurgeon.feature_distillation" in name for name in seen)
    assert torch.equal(watched, feature_distillation(student, target))
    with FakeTensorMode() as mode:
        fake = feature_distillation(mode.from_tensor(student), mode.from_tensor(target))
    assert fake.shape == (2,)
    assert fake.requires_grad


@pytest.mark.parametrize("implementation", SELDOM_COMPILED)
@pytest.mark.parametrize("layers", [5, 9])
def test_more_layers_than_one_call_takes(implementation, layers):
    generator = torch.Generator(DEVICE).manual_seed(layers)
    students = [torch.randn(2, 3, 4, generator=generator).requires_grad_() for _ in range(layers)]
    targets = [torch.randn(2, 3, 4, generator=generator) for _ in range(layers)]
    weights = [0.5 + layer for layer in range(layers)]
    loss = feature_distillation(students, targets, layer_weights=weights, implementation=implementation)
    loss.sum().backward()
    alone = [
        feature_distillation(s.detach(), t, implementation="reference") for s, t in zip(students, targets, strict=True)
    ]
    torch.testing.assert_close(loss, sum(weight * one for weight, one in zip(weights, alone, strict=True)))
    assert all(student.grad.abs().sum() > 0 for student in students)
