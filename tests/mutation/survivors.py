"""Mutants that no test kills, and why: (file, function or class, old lines, new lines) to a reason."""

_BASE, _FOCAL, _CONFUSION = (f"fastloss/losses/{name}.py" for name in ("base", "focal", "confusion"))
_PLAIN = (
    'plain = type(values) is Tensor and values.device.type == "cpu" and not torch.compiler.is_compiling()',
    'plain = type(values) is Tensor and values.device.type == "cpu" and  torch.compiler.is_compiling()',
)
_RATIO = "return (numerator / denominator.masked_fill(nothing, {})).masked_fill(nothing, empty)"
_DEGENERATE = "degenerate = square {} 0  # without smoothing: the root has no derivative there, and 0 / 0 is perfect"

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
        "if (!metric.whole || metric.greatest_square >= static_cast<double>(kFar<std::int32_t>) || label_bytes > 8) {",
    ): "as_labels in distance/inputs.py leaves none of more than four bytes.",
    (
        "fastloss/passes/inputs.py",
        "check_inputs",
        'if activation == "softmax" and logits.shape[1] == 1:',
        'if activation >= "softmax" and logits.shape[1] == 1:',
    ): "The activations are three, and the others come before it.",
    (_CONFUSION, "formula", _DEGENERATE.format("=="), _DEGENERATE.format("<=")): "A sum of squares is at least 0.",
}
