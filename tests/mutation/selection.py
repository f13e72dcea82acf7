"""Which tests must kill the mutants of a file: a few seconds, mostly of the Numba back end; of another library's losses
where it is installed."""

from importlib.util import find_spec

_ERRORS = "tests/losses/test_errors.py"
_LOSSES = "tests/losses/test_losses.py"
_EXTREMES = "tests/losses/test_extremes.py"
_VOXELS = "tests/kernels/test_voxel_losses.py"
_BOUNDARY, _RANKED = "tests/losses/test_boundary.py", "tests/losses/test_ranked.py"
_OPTIONS, _NO_FLAG = "tests/losses/test_options.py", "test_what_is_no_flag_is_named"
_VOXEL = "tests/losses/test_voxel_reduction.py"
_DISTRIBUTED, _ALONE = "tests/passes/test_distributed.py", "test_one_process_alone_is_no_process_group"
_NOT = "not triton and not compile and not saturated and not half_precision_errs"
_INPUTS = f"(test_errors or wrong or portion or meta or options or test_inputs) and {_NOT}"
_ANY_DEVICE = tuple(
    f"tests/passes/test_ops.py::{name}"
    for name in ("test_every_operator_is_one_on_every_device", "test_sums_are_float64_where_a_device_has_it")
)
_TERMS = (
    f"(test_errors or reference or spellings or products_are or powers_are or shares or infinite or finite) and {_NOT}"
)
_METRICS = ("tests/metrics", "-k", "not slabs")
_DISTANCES = ("tests/distance", "-k", "not thousand and not 31 and not memory and not gib")

_LAZY = f"{_NOT} and not memory and not processes and not back_end and not gradcheck and not threads and not every_loss"
_HEAD, _LAZY_LOSSES, _INTERPOLATE = (
    f"tests/lazy/test_{name}.py" for name in ("lazy_head", "lazy_losses", "interpolate")
)
_QUICK = "not numba and not once"
_SERVED = {  # with the package that it needs, and the tests' names
    "shared": ("segmentation_models_pytorch", "smp or kornia or learned or version"),
    "smp": ("segmentation_models_pytorch", "smp or attributes or learned or version"),
    "kornia": ("kornia", "kornia or attributes"),
    "nnunet": ("nnunetv2", "nnunet"),
    "torchvision": ("torchvision", "torchvision"),
}
_TRAINERS = ("tests/accelerate/test_nnunet_trainers.py",)

_STENCILS = (
    _ERRORS,
    "tests/losses/test_losses.py::test_defaults_are_those_of_the_plain_versions",
    *("tests/losses/test_stencil.py", "-k"),
)


_FORMULAS = "those_of_the_formula or keep_their_formulas"
_OF_QUOTIENTS = "tests/losses/test_quotients.py"
_QUOTIENTS = tuple(
    f"{_OF_QUOTIENTS}::{name}"
    for name in ("test_value_and_slopes_are_those_of_the_formula", "test_other_losses_keep_their_formulas")
)


def _of_losses(names: str, *more: str) -> tuple[str, ...]:
    """Tests of the losses that pytest's expression names, and of ``more``; errors first."""
    expression = f"(test_errors or defaults or {names}) and {_NOT} and not numba and not reference and not large"
    return (_ERRORS, *more, _LOSSES, _EXTREMES, "-k", expression)


_BASE = _of_losses(
    "(dice and not (focal or general or cosh or targets)) or compound or meta or modules or test_options"
    " or one_spacing or two_maps or shares_the_pass or no_process_group or real_logits or of_other_libraries"
    " or parts_of_voxels or keep_their_formulas or nested_losses",
    *(
        f"{_OF_QUOTIENTS}::test_{name}"
        for name in ("other_losses_keep_their_formulas", "weights_of_nested_losses_are_multiplied")
    ),
    f"{_VOXEL}::test_parts_of_voxels_and_others",
    *(f"{_OPTIONS}::{name}" for name in (_NO_FLAG, "test_options_are_fixed", "test_numbers_that_are_none_are_named")),
    "tests/losses/test_friction.py::test_f12_options_of_other_libraries_are_answered_with_ours",
    "tests/lazy/test_lazy_losses.py::test_what_ranks_or_sees_neighbours_has_real_logits",
    _BOUNDARY,
    "tests/passes/test_distributed.py::test_what_is_no_process_group_is_named",
)

_CHECKS = (
    *("tests/passes/test_tensors.py", _ERRORS, "tests/losses/test_inputs.py", _OPTIONS, _RANKED, _LOSSES),
    *("-k", f"{_INPUTS} or test_tensors"),
)

TESTS: dict[str, tuple[str, ...]] = {
    "fastloss/losses/base.py": _BASE,
    "fastloss/losses/options.py": _BASE,
    "fastloss/losses/region.py": _of_losses(
        f"dice or jaccard or tversky or no_flag or {_FORMULAS}", f"{_OPTIONS}::{_NO_FLAG}", *_QUOTIENTS
    ),
    "fastloss/losses/distribution.py": _of_losses(
        f"cross_entropy or torchs or one_weight or linear_terms or {_FORMULAS}", _VOXEL, *_QUOTIENTS
    ),
    "fastloss/losses/focal.py": _of_losses(
        f"focal or poly or limits or linear or alphas or {_FORMULAS}",
        *(
            "tests/losses/test_identities.py",
            _VOXEL,
            *_QUOTIENTS,
            f"{_OPTIONS}::test_alphas_of_a_sigmoid_may_be_one_and_zero",
        ),
    ),
    "fastloss/losses/confusion.py": _of_losses("generalized or sensitivity or mcc or nowhere"),
    "fastloss/losses/compound.py": _of_losses("dice_ce or dice_focal or combo or exp_log or modules or frequency"),
    "fastloss/losses/unified.py": _of_losses("unified"),
    "fastloss/losses/ranked.py": (_RANKED, "-k", f"{_NOT} and not large and not reference"),
    "fastloss/terms.py": ("tests/kernels/test_products.py", _ERRORS, "-k", _TERMS),
    **{
        f"fastloss/{name}.py": _CHECKS
        for name in ("passes/inputs", "passes/options", "passes/tensors", "losses/weights")
    },
    **{
        f"fastloss/losses/spatial/{name}.py": _of_losses("test_boundary or boundary or hausdorff or penalty", _BOUNDARY)
        for name in ("boundary", "maps")
    },
    "fastloss/losses/spatial/fields.py": _of_losses(
        "test_boundary or shape_aware or device or its_spacing or maps_that_are_known",
        *("tests/losses/test_inputs.py::test_each_sample_has_its_spacing", _BOUNDARY, *_ANY_DEVICE),
        f"{_LAZY_LOSSES}::test_maps_that_are_known",
    ),
    "fastloss/losses/spatial/hausdorff.py": (
        *_STENCILS,
        f"(test_errors or defaults or hausdorff or eroded) and {_NOT}",
    ),
    "fastloss/losses/spatial/cldice.py": (
        *("tests/losses/test_soft_labels.py", *_STENCILS),
        f"(test_errors or defaults or cldice or nothing_counts) and {_NOT}",
    ),
    "fastloss/losses/spatial/structural.py": (
        f"{_LAZY_LOSSES}::test_what_ranks_or_sees_neighbours_has_real_logits",
        *(*_STENCILS, f"(test_errors or defaults or structural or real_logits) and {_NOT}"),
    ),
    "fastloss/losses/deep_supervision.py": ("tests/losses/test_deep_supervision.py", "-k", _NOT),
    "fastloss/metrics/counts.py": _METRICS,
    "fastloss/metrics/inputs.py": (f"{_LAZY_LOSSES}::test_metrics", *_METRICS),
    "fastloss/metrics/surface.py": ("tests/metrics/test_surface.py",),
    "fastloss/metrics/directions.py": ("tests/metrics/test_surface.py", "tests/kernels/gpu/test_gpu_stays.py"),
    "fastloss/metrics/elements.py": ("tests/metrics/test_surface.py", "-k", "areas or subvoxels"),
    "fastloss/metrics/device.py": ("tests/kernels/gpu/test_gpu_stays.py",),
    "fastloss/metrics/accumulator.py": _METRICS,
    "fastloss/metrics/__main__.py": ("tests/metrics/test_scoring.py",),
    "fastloss/metrics/scoring.py": ("tests/metrics/test_scoring.py",),
    "fastloss/metrics/nifti.py": ("tests/bench/test_bench_nifti.py",),
    "fastloss/distance/inputs.py": _DISTANCES,
    "fastloss/distance/transforms.py": _DISTANCES,
    "fastloss/passes/sums.py": (
        *(_ERRORS, "tests/passes/test_ops.py", f"{_VOXELS}::test_sums_with_masks_and_the_sum_over_voxels"),
        *(f"{_VOXELS}::test_errors", "-k", f"{_NOT} and not opcheck and not thousand"),
    ),
    **{
        f"fastloss/passes/{name}.py": (
            *("tests/passes/test_ops.py", "tests/passes/test_ranked_ops.py", _ERRORS, _OF_QUOTIENTS),
            "-k",
            f"({_NOT} and not thousand and not racing and not end_to_end and not finite_differences)"
            " or test_compiles_without_breaks",
        )
        for name in ("ops", "autograd", "backends")
    },
    "fastloss/passes/voxel_ops.py": (_VOXELS, _VOXEL, "-k", _NOT),
    "fastloss/passes/ranked_ops.py": (
        *("tests/passes/test_ranked_ops.py", f"{_RANKED}::test_class_weights_and_smoothing_of_topk", *_ANY_DEVICE),
        *("-k", f"{_NOT} or test_opcheck"),
    ),
    "fastloss/passes/stencil_ops.py": (
        *("tests/losses/test_stencil.py", *_ANY_DEVICE),
        *("-k", f"{_NOT} and not plain and not balls"),
    ),
    "fastloss/passes/distributed.py": (
        *(f"{_DISTRIBUTED}::{name}" for name in ("test_what_is_no_process_group_is_named", _ALONE)),
        *(*_ANY_DEVICE, _DISTRIBUTED),
    ),
    "fastloss/passes/chunks.py": (_HEAD, _INTERPOLATE, _LAZY_LOSSES, "-k", _LAZY),
    "fastloss/passes/resize.py": (_INTERPOLATE, "tests/lazy/test_resample.py", "-k", f"{_LAZY} and not tiles"),
    "fastloss/passes/lazy_logits.py": (_HEAD, _INTERPOLATE, _LAZY_LOSSES, "-k", _LAZY),
    "fastloss/passes/lazy_ops.py": (*_ANY_DEVICE, _HEAD, _LAZY_LOSSES, "-k", _LAZY),
    "fastloss/passes/values.py": (_ERRORS, "tests/losses/test_inputs.py", "-k", f"{_NOT} and not spacing"),
    "fastloss/lazy/head.py": (_HEAD, "-k", _LAZY),
    "fastloss/lazy/interpolate.py": (_INTERPOLATE, "-k", _LAZY),
    "fastloss/lazy/resample.py": ("tests/lazy/test_resample.py", "-k", _LAZY),
    "fastloss/precompute.py": ("tests/test_precompute.py",),
    "fastloss/ahead.py": (
        *("tests/kernels/test_cold_start.py", _OPTIONS),
        *("-k", "warmup or warm_up or bad_arguments or numbers_of_channels"),
    ),
    **{
        f"fastloss/accelerate/{name}.py": (
            *("tests/accelerate/test_core.py", "tests/accelerate/test_monai.py"),
            *("-k", "not program and not overhead and not numba"),
        )
        for name in ("core", "fused", "handle")
    },
    **{
        f"fastloss/accelerate/monai/{name}.py": (
            *("tests/accelerate/test_monai.py", "tests/accelerate/test_core.py::test_holds_until_undone_and_reports"),
            *("-k", "not numba"),
        )
        for name in ("common", "compound", "distances", "focal", "overlap")
    },
    "fastloss/accelerate/torch.py": ("tests/accelerate/test_torch.py",),
    **{
        f"fastloss/accelerate/{name}.py": (
            "tests/accelerate/test_peers.py",
            "-k",
            f"({tests}) and not numba and not once",
        )
        for name, (package, tests) in _SERVED.items()
        if find_spec(package)
    },
    "fastloss/integrations/monai.py": ("tests/integrations/test_monai_scores.py", "-k", "not processes"),
    "fastloss/integrations/torchmetrics.py": ("tests/integrations/test_torchmetrics_scores.py", "-k", "not processes"),
    "fastloss/integrations/scores.py": (
        *("tests/integrations/test_torchmetrics_scores.py", "tests/integrations/test_monai_scores.py"),
        *("-k", "not processes"),
    ),
    "fastloss/integrations/patches.py": ("tests/integrations/test_patches.py",),
    "fastloss/integrations/torchio.py": ("tests/integrations/test_torchio_maps.py",),
    **({"fastloss/integrations/nnunet/fastloss_trainers.py": _TRAINERS} if find_spec("nnunetv2") else {}),
}
