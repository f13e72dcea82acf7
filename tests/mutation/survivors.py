"""Mutants that no test kills, and why: (file, function or class, old lines, new lines) to a reason."""

_BASE, _FOCAL, _CONFUSION = (f"fastloss/losses/{name}.py" for name in ("base", "focal", "confusion"))
_TORCHMETRICS = "fastloss/integrations/torchmetrics.py"
_PLAIN = (
    'plain = type(values) is Tensor and values.device.type == "cpu" and not torch.compiler.is_compiling()',
    'plain = type(values) is Tensor and values.device.type == "cpu" and  torch.compiler.is_compiling()',
)
_RATIO = "return (numerator / denominator.masked_fill(nothing, {})).masked_fill(nothing, empty)"
_DEGENERATE = "degenerate = square {} 0  # without smoothing: the root has no derivative there, and 0 / 0 is perfect"
_AS_ROWS = (
    "self.as_rows = self.maker.pointwise and all(x is None {} _is_row(x, axes) for x in (features, *self.volumes))"
)
_NARROW = "dtype = torch.bool if given.overlapping else torch.uint8 if given.classes < {} else torch.int32"

EXPLAINED: dict[tuple[str, str, str, str], str] = {
    (
        _BASE,
        "__init__",
        "first = members[0]",
        "first = members[-1]",
    ): "What is taken of it is the same in all members.",
    (
        _BASE,
        "never_zero",
        *_PLAIN,
    ): "Eager code takes the longer way to the same value; tests/passes/test_ops.py compiles.",
    (_BASE, "ratio", _RATIO.format("1.0"), _RATIO.format("2.0")): "Any number but 0 will do: it is left out.",
    (
        _FOCAL,
        "__init__",
        'plain = check_choice("base", base, ("ce", "focal")) == "ce"',
        'plain = check_choice("base", base, ("ce", "focal")) <= "ce"',
    ): "The choices are two.",
    (
        _CONFUSION,
        "size_weights",
        "largest = torch.where(finite, omega, 0.0).amax(1, keepdim=True)",
        "largest = torch.where(finite, omega, -1.0).amax(1, keepdim=True)",
    ): "Where none is finite either gives way to 1.",
    (
        _CONFUSION,
        "size_weights",
        "if never_zero(1 / omega):",
        "if never_zero(0 / omega):",
    ): "The longer way, to the same value.",
    (
        "kernels/balls.py",
        "__init__",
        "self.reach = [min(max(radii), size - 1) for size in self.space]  # beyond it there is no voxel",
        "self.reach = [min(max(radii), size) for size in self.space]  # beyond it there is no voxel",
    ): "No two voxels are as far from one another as an axis is long.",
    (
        "kernels/gpu/voxels.py",
        "write_value",
        "value = tl.where(counted, tl.abs(value), -1.0)",
        "value = tl.where(counted, value, -1.0)",
    ): "A cross-entropy is negative only of a probability above 1.",
    (
        "csrc/planner.hpp",
        "Plan",
        "if (!metric.whole || metric.greatest_square >= static_cast<double>(kFar<std::int32_t>) || label_bytes > 4) {",
        "if (!metric.whole || metric.greatest_square > static_cast<double>(kFar<std::int32_t>) || label_bytes > 4) {",
    ): "2^30 is a sum of squares of one axis alone, whose steps are looked up: no number is compared with kFar.",
    (
        "kernels/cpu/rows.py",
        "_labels",
        "bad += 0 if known | (weights[k] == 0) else 1",
        "bad += 0 if known else 1",
    ): "Where labels may be bad, _check_labels in passes/values.py looks once more, at those that count.",
    (
        "fastloss/passes/voxel_ops.py",
        "backward",
        "nothing = (None,) * 5",
        "nothing = (None,) * 6",
    ): "A Function may return more than it has inputs, if they are None.",
    (
        "fastloss/passes/ops.py",
        "_unobserved",
        'return all(x is None or (type(x) is Tensor and x.device.type == "cpu" and not x.is_neg()) for x in inputs)',
        'return all(x is None and (type(x) is Tensor and x.device.type == "cpu" and not x.is_neg()) for x in inputs)',
    ): "The dispatcher, which is then always asked, only takes time.",
    (
        "fastloss/accelerate/monai/compound.py",
        "with_focal",
        "sums, value = sums_of(first)[0], focal_voxels(focal, second)",
        "sums, value = sums_of(first)[ -1], focal_voxels(focal, second)",
    ): "Of one pass there are one pass's sums.",
    (
        "fastloss/accelerate/core.py",
        "backward",
        "return grads[0], None, *[None] * len(tensors)",
        "return grads[ -1], None, *[None] * len(tensors)",
    ): "There is one gradient.",
    (
        "fastloss/passes/inputs.py",
        "validation_level",
        'return VALIDATE_LABELS if device.type == "cpu" else VALIDATE_NOTHING',
        'return VALIDATE_LABELS if device.type <= "cpu" else VALIDATE_NOTHING',
    ): "The name of no other device comes before it.",
    (
        "fastloss/passes/lazy_ops.py",
        "__init__",
        "axes = len(self.shape) - 2",
        "axes = len(self.shape) - 1",
    ): "By boxes, as volumes of any strides are taken, the sums are the same.",
    (
        "fastloss/passes/lazy_ops.py",
        "_found",
        "yield torch.empty(0) if gradient is None or like is None else gradient.to(like.dtype)",
        "yield torch.empty( 1) if gradient is None or like is None else gradient.to(like.dtype)",
    ): "What stands for None is not read.",
    (
        "fastloss/losses/spatial/fields.py",
        "_on_device",
        "wait()",
        "pass",
    ): "Only copies from a GPU are waited for.",
    (
        "fastloss/losses/spatial/cldice.py",
        "forward",
        "first = 0 if self.include_background or inputs.logits.shape[1] == 1 else 1",
        "first = 0 if self.include_background or inputs.logits.shape[1] == 1 else 0",
    ): "The background's skeleton takes time and is left out.",
    (
        "fastloss/passes/autograd.py",
        "save",
        "ctx.set_materialize_grads(False)",
        "ctx.set_materialize_grads(True)",
    ): "Zeros in place of None only take time.",
    (
        "fastloss/passes/inputs.py",
        "check_inputs",
        'if activation == "softmax" and logits.shape[1] == 1:',
        'if activation >= "softmax" and logits.shape[1] == 1:',
    ): "The activations are three, and the others come before it.",
    (
        _BASE,
        "never_zero",
        _PLAIN[0],
        _PLAIN[0].replace("type ==", "type >="),
    ): "Of another device it waits for the values, for the same result.",
    (
        "fastloss/losses/distribution.py",
        "__init__",
        'if reduction == "voxel" and self.process_group is not None:',
        'if reduction >= "voxel" and self.process_group is not None:',
    ): "The other reductions come before it.",
    (
        _CONFUSION,
        "check_target",
        'if self.variant == "squared_error" and dense and target.is_floating_point():',
        'if self.variant >= "squared_error" and dense and target.is_floating_point():',
    ): "The variants are two.",
    (
        "fastloss/losses/compound.py",
        "voxel_table",
        "negative = sums[self.negative] * ratio(given + rest, rest, 0.0).sqrt()",
        "negative = sums[self.negative] * ratio(given + rest, rest, 1.0).sqrt()",
    ): "Where nothing is left, the sum over what is left is 0.",
    (
        "fastloss/losses/spatial/structural.py",
        "__init__",
        "if window % 2 == 0:",
        "if window % 2 <= 0:",
    ): "A remainder is at least 0.",
    (
        "fastloss/losses/deep_supervision.py",
        "_places",
        'exact, fits = sampling == "nearest-exact", len(size) == len(full)',
        'exact, fits = sampling >= "nearest-exact", len(size) == len(full)',
    ): "The samplings are two.",
    (
        _TORCHMETRICS,
        "__init__",
        "self.columns = classes if options.include_background or classes == 1 else classes - 1",
        "self.columns = classes if options.include_background or classes <= 1 else classes - 1",
    ): "Fewer are none to score.",
    (
        _TORCHMETRICS,
        "update",
        'if self.aggregation_level == "samplewise":',
        'if self.aggregation_level >= "samplewise":',
    ): "The levels are two.",
    (
        "fastloss/integrations/scores.py",
        "__post_init__",
        'expected = "a number of mm" if self.score == "surface_dice" else "None, but for score=\'surface_dice\'"',
        'expected = "a number of mm" if self.score >= "surface_dice" else "None, but for score=\'surface_dice\'"',
    ): "The other scores come before it.",
    (
        "fastloss/lazy/head.py",
        "_check_pointwise",
        'got = values[0] if name == "groups" else tuple(values)',
        'got = values[ -1] if name == "groups" else tuple(values)',
    ): "Of groups there is one number.",
    (
        "fastloss/metrics/device.py",
        "_volumes",
        _NARROW.format(256),
        _NARROW.format(255),
    ): "32 bits hold what 8 do.",
    (
        "fastloss/distance/inputs.py",
        "as_labels",
        "if voxels.dtype.itemsize == 4:",
        "if voxels.dtype.itemsize == 5:",
    ): "Numbered anew, the labels have the same fields.",
    (
        "fastloss/integrations/monai.py",
        "__init__",
        "label=self.keys[0],",
        "label=self.keys[ -1],",
    ): "There is one key.",
    (
        "fastloss/passes/lazy_ops.py",
        "__init__",
        _AS_ROWS.format("or"),
        _AS_ROWS.format("and"),
    ): "By boxes, as volumes of any strides are taken, the sums are the same.",
    (
        "fastloss/ahead.py",
        "_volume",
        "generator = torch.Generator().manual_seed(0)",
        "generator = torch.Generator().manual_seed( 1)",
    ): "Any seed will do.",
    (_CONFUSION, "formula", _DEGENERATE.format("=="), _DEGENERATE.format("<=")): "A sum of squares is at least 0.",
    (
        "kernels/reference/resample.py",
        "_interpolated",
        "for k in (2, 1, 0):  # torch's order",
        "for k in (0, 1, 2):  # torch's order",
    ): "To a rounding the order does not matter.",
}
