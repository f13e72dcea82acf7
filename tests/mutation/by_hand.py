"""Mutations of the kernels and of csrc/, where operators that know Python alone would mutate little of what matters,
and those that once survived."""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    """The text ``old``, which its file has once, becomes ``new``; ``tests`` must notice: pytest's arguments."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _mutations(file: str, *changes: tuple[str, str, tuple[str, ...]]) -> list[Mutation]:
    return [Mutation(file, *change) for change in changes]


def _of(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"tests/{file}::{name}" for name in names)


_REFERENCE = (
    "tests/kernels/test_sums.py",
    "tests/losses/test_extremes.py",
    "-k",
    "reference and (ends or impossible or dtypes or confident or alone or dense or saturation or focal)",
)
_RANKED = "losses/test_ranked.py"
_PLAN = "kernels/test_plan_codes.py"
_SUMS = "kernels/test_sums.py"
_PRODUCTS = "kernels/test_products.py"
_GPU = "kernels/gpu/test_gpu_interpreter.py"
_GPU_PRODUCTS = "kernels/gpu/test_gpu_products.py"
_GPU_MANY = "kernels/gpu/test_gpu_many_classes.py"
_AROUND = "test_what_lies_around_is_neither_taken_nor_overwritten"
_GPU_ROWS = _of(_GPU_MANY, _AROUND, "test_weights_over_many_channels", "test_several_leading_classes")
_GPU_UNROLLED = (
    *_of(_GPU, _AROUND, "test_activation_target_and_weights", "test_dimensions"),
    *_of(_GPU_PRODUCTS, "test_confident_voxels_keep_all_digits"),
)
_QUOTIENTS = (
    *("tests/losses/test_quotients.py", "-m", "slow or not slow", "-k"),
    "many_classes or changed or (formula and softmax) or (end_to_end and dtype0 and softmax)",
)
_GPU_RESAMPLE = ("tests/kernels/gpu/test_gpu_resample.py",)
_RESAMPLE = ("tests/lazy/test_resample.py", "-k", "not triton and not reference and not memory and not wrong")
_RESAMPLE_REFERENCE = ("tests/lazy/test_resample.py", "-k", "reference")
_BALLS = ("tests/losses/test_stencil.py", "-k", "ball")
_STENCIL = "losses/test_stencil.py"
_CLDICE = ("tests/losses/test_stencil.py", "-k", "numba and cldice and (equals or number)")
_STRUCTURE = ("tests/losses/test_stencil.py", "-k", "numba and structural and (equals or ignored)")
_GPU_STENCIL = _of("kernels/gpu/test_gpu_stencil.py", "test_equals_the_reference")
_EQUAL = _of(_STENCIL, "test_of_equal_probabilities_each_keeps_its_derivative[triton]")
_ONE_SIDE = "test_erosions_do_not_err_to_one_side"
_EQUAL_EXTREMES = "test_equal_extremes_share_their_derivative"
_SLOPES = _of("losses/test_soft_labels.py", "test_slopes_where_p_is_the_target")
_OF_ZERO = "test_an_error_of_zero_has_no_gradient"
_FIELDS = (
    *("tests/distance/test_distance_fields.py", "tests/distance/test_distance.py"),
    *("-k", "not two_thousand and not meanwhile and not fork and not threads_at_once and not subclasses"),
)
_FEW = _of("distance/test_distance_fields.py", "test_fields_of_any_labels")
_LONG = _of("distance/test_distance_fields.py", "test_long_axes", "test_long_lines_of_near_sites")
_FAR_APART = _of(
    "distance/test_distance_fields.py", "test_long_distances_with_few_sites", "test_an_axis_far_finer_than_the_others"
)
_SITES = _of("distance/test_distance_fields.py", "test_indices_are_of_nearest_sites")
_GPU_NUMBERS = _of("kernels/gpu/test_gpu_distances.py", "test_which_numbers_will_do")
_GPU_SITES = _of("kernels/gpu/test_gpu_distances.py", "test_sites_are_as_far_away_as_the_distance_says")
_GPU_EXTREME = _of("kernels/gpu/test_gpu_distances.py", "test_extreme_spacings")
_GPU_ANY = _of("kernels/gpu/test_gpu_distances.py", "test_equals_the_cpu_for_any_shape_layout_dtype_and_tile")
_GPU_KIND = _of("kernels/gpu/test_gpu_distances.py", "test_kinds_of_masks[(3, 5, 7)-(1.0, 1.0, 1.0)]")
_GPU_DISTANCES = (
    "tests/kernels/gpu/test_gpu_distances.py",
    "-k",
    "not compiled and (kinds or extreme or any_shape or sites)",
)

MUTATIONS: list[Mutation] = [
    *_mutations(
        "fastloss/losses/spatial/boundary.py",
        ("self.alpha == 2  #", "self.alpha >= 2  #", _of("losses/test_boundary.py", "test_hausdorff_equals_monai")),
    ),
    *_mutations(
        "fastloss/precompute.py",
        (
            "if key not in _NOT_IN_MAPS)",
            'if key not in (*_NOT_IN_MAPS, "ignore_index"))',
            ("tests/test_precompute.py", "-k", "not workers"),
        ),
    ),
    *_mutations(
        "kernels/reference/sums.py",
        (
            "target.unsqueeze(1).long() != label)",
            "target.unsqueeze(1) != label)",
            _REFERENCE,
        ),
        ("= weight, weight != 0", "= weight, counted", _REFERENCE),
        (
            'if factor in "lm" else x) ** power',
            'if factor in "l" else x) ** power',
            _of(_PRODUCTS, "test_products_of_the_reference"),
        ),
        ("return torch.where(share != 0, share * product, 0)", "return share * product", _REFERENCE),
        ("by_p = by_p - term.q *", "by_p = by_p + term.q *", _REFERENCE),
        (
            "return torch.where(x > EPSILON, power *",
            "return torch.where(x >= 0, power *",
            _of(_PRODUCTS, "test_products_of_the_reference"),
        ),
        ("by_m = torch.where(q > EPSILON, s.by_m / q, 0)", "by_m = s.by_m / q", _REFERENCE),
        ("return torch.where(self.y >= 1, -1.0, side)", "return (side)", (*_SLOPES, "-k", "reference")),
    ),
    *_mutations(
        "kernels/reference/stencils.py",
        (
            "own = gradient - dot * at_high / at_high.sum(space, keepdim=True).clamp_min(1)",
            "own = gradient - dot * at_high",
            _of(_STENCIL, f"{_EQUAL_EXTREMES}[reference]"),
        ),
        (
            "slope = coefficient + _cross(slope)",
            "slope = _cross(slope)",
            _of(_STENCIL, f"{_EQUAL_EXTREMES}[reference]"),
        ),
    ),
    *_mutations(
        "kernels/reference/resample.py",
        ("~(value <= best)", "(value > best)", _RESAMPLE_REFERENCE),
        ("~(value <= best)", "~(value < best)", _RESAMPLE_REFERENCE),
        ("& ~best.isnan()", "", _RESAMPLE_REFERENCE),
        ("labels.zero_()", "", _RESAMPLE_REFERENCE),
        ("for k in (2, 1, 0)", "for k in (0, 1, 2)", _RESAMPLE_REFERENCE),
    ),
    *_mutations(
        "kernels/ranking.py",
        (
            "* k).floor()",
            "* k).round()",
            _of(_RANKED, "test_labels_with_ignored_and_masked_voxels[reference-bool-softmax-3-dice_topk-k=0.3]"),
        ),
        (
            ".sort(descending=True, stable=True)",
            ".sort(descending=True)",
            _of(_RANKED, "test_equal_errors_rank_in_the_order_of_the_voxels"),
        ),
        (
            "share = left / tied.sum().clamp_min(1)",
            "share = torch.ones_like(left)",
            _of(_RANKED, "test_ties_at_the_threshold_share[reference]"),
        ),
        ("(w > 0).to(w))", "torch.zeros_like(w))", _of(_RANKED, "test_table_of_lovasz")),
        (
            "valid = (losses >= 0) | losses.isnan()",
            "valid = losses >= 0",
            _of(_RANKED, "test_not_a_number_is_not_hidden"),
        ),
    ),
    *_mutations(
        "kernels/layout.py",
        (
            "if low <= label <= high",
            "if low < label < high",
            _of(_SUMS, "test_ignored_labels_at_the_ends_of_a_dtype_and_beyond"),
        ),
        ("strides[-1] == step * size:", "strides[-1] >= step * size:", _of(_SUMS, "test_layouts_equal_contiguous")),
    ),
    *_mutations(
        "kernels/balls.py",
        ("_squares(near) <= radius**2", "_squares(near) < radius**2", _BALLS),
        (
            "min(max(radii), size - 1) for size in self.space]  # beyond",
            "min(max(radii), size) for size in self.space]  # beyond",
            _BALLS,
        ),
        (
            "torch.searchsorted(self.radii, inner)",
            "torch.searchsorted(self.radii, inner, right=True)",
            ("tests/losses/test_stencil.py", "-k", "equals_the_plain and hard and reference"),
        ),
    ),
    *_mutations(
        "kernels/cpu/sums_code.py",
        ("_FOLD = 32 ", "_FOLD = 64 ", _of(_PLAN, "test_equal_logits_of_a_new_network")),
        ("self.bits = 8 * lanes.size // FEW", "self.bits = 7", _of(_PLAN, "test_equal_logits_of_a_new_network")),
        (
            "elif not term.p or not block.others:  # else 0 already",
            "elif not block.others:",
            _of(_SUMS, "test_many_classes[numba-softmax-17]"),
        ),
        (
            "loss = lanes.absolute(block.weigh(loss))",
            "loss = block.weigh(loss)",
            ("tests/losses/test_ranked.py", "-k", "numba and (saturated or number or errors_equal or all_voxels)"),
        ),
        (
            "return loss if block.counted is None",
            "return loss if block.counted is not None",
            _of(_RANKED, "test_ties_at_the_threshold_share[numba]"),
        ),
    ),
    *_mutations(
        "kernels/cpu/products.py",
        (
            'if factor in "lm" else x',
            'if factor in "l" else x',
            _of(_PRODUCTS, "test_powers_of_logarithms_are_of_at_least_epsilon"),
        ),
        (
            'fcmp_ordered("<=", self.get(factor), self.lanes.reals(EPSILON))',
            'fcmp_ordered("<", self.get(factor), self.lanes.reals(0))',
            _of(_PRODUCTS, "test_powers_of_logarithms_are_of_at_least_epsilon"),
        ),
        (
            "if power < 1:\n            clamped",
            "if power < 0:\n            clamped",
            _of(_PRODUCTS, "test_products"),
        ),
    ),
    *_mutations(
        "kernels/cpu/block.py",
        ('fcmp_ordered(">=", y, lanes.one)', 'fcmp_ordered(">", y, lanes.one)', (*_SLOPES, "-k", "numba")),
        (
            'lanes.pick(self.mine(c), get("q"), get("p"))',
            'get("p")',
            (*_of("losses/test_soft_labels.py", "test_the_term_and_its_slope"), "-k", "numba"),
        ),
        (
            "lanes.total([e for k, e in self.e.items() if k != c]), self.r)",
            "b.fsub(self.total, self.e[c]), self.r)",
            _of(_SUMS, "test_confident_wrong_predictions_keep_their_gradient[numba-softmax]"),
        ),
        (
            "b.fsub(leaders.get(), lanes.one))",
            "lanes.zero)",
            _of(_PLAN, "test_equal_logits_of_many_classes"),
        ),
        (
            "clamped = self.lanes.at_least(x, EPSILON)",
            "clamped = self.lanes.at_least(x, 1e-6)",
            _of("losses/test_extremes.py", "test_saturation_on_every_back_end[numba-None-focal-gamma=0.0]"),
        ),
    ),
    *_mutations(
        "kernels/cpu/forms.py",
        ("labels <= 255  #", "labels <= 256  #", _of(_PLAN, "test_labels_that_are_no_class")),
    ),
    *_mutations(
        "kernels/cpu/classes.py",
        (
            "kept.put(0, self.lanes.reals(-math.inf))",
            "kept.put(0, self.lanes.zero)",
            _of(_PLAN, "test_a_constant_in_all_logits_changes_nothing"),
        ),
    ),
    *_mutations(
        "kernels/cpu/coefficients.py",
        ('if group.asks("1", "r"):', 'if group.asks("r"):', _of(_PLAN, "test_dense_targets_under_softmax")),
        (
            'everywhere = group.asks("1") or (group.asks("r") and group.asks("y", "y2"))',
            "everywhere = True",
            _of(_SUMS, "test_a_class_that_is_impossible_is_not_there"),
        ),
    ),
    *_mutations(
        "kernels/cpu/lanes.py",
        (
            'return self.builder.fcmp_ordered("<", a, self.reals(b))',
            'return self.builder.fcmp_unordered("<", a, self.reals(b))',
            _of(_SUMS, "test_nan_is_not_hidden[numba]"),
        ),
    ),
    *_mutations(
        "kernels/cpu/functions.py",
        ("0x3F3504F3 if self.single", "0x3F800000 if self.single", _of(_SUMS, "test_many_classes[numba-softmax-16]")),
        (
            "lanes.reals(0.41421356)",
            "lanes.reals(0.9)",
            _of(_SUMS, "test_dtypes_with_ignored_and_masked_voxels[numba-sigmoid-torch.float32]"),
        ),
    ),
    *_mutations(
        "kernels/cpu/rows.py",
        (
            "element(min(a.classes - 1, most))",
            "element(a.classes - 1)",
            ("tests/kernels/test_sums.py", "-k", "numba and more_classes_than_labels"),
        ),
        ("least = np.uint32(113 << 23)", "least = np.uint32(112 << 23)", _of(_PLAN, "test_every_number_of_16_bits")),
        (
            "bits + np.uint32(224 << 23)",
            "bits + np.uint32(112 << 23)",
            _of(_PLAN, "test_every_number_of_16_bits"),
        ),
        (
            "bad += 0 if known | (weights[k] == 0) else 1",
            "bad += 0 if known else 1",
            _of("losses/test_errors.py", "test_bad_label_of_an_ignored_or_masked_voxel_is_no_error[numba]"),
        ),
        (
            "line // w.size1 * w.stride0",
            "line // w.size1 * w.stride1",
            _of(_SUMS, "test_layouts_equal_contiguous[numba-block]"),
        ),
    ),
    *_mutations(
        "kernels/cpu/chunk.py",
        (
            "more = p.lanes - n % p.lanes",
            "more = p.lanes - n % p.lanes - 1",
            _of(_SUMS, "test_chunk_and_tile_borders[softmax]"),
        ),
        ("label=c + p.first_label,", "label=c,", _of(_SUMS, "test_all_terms_with_labels[numba-sigmoid-1-1]")),
    ),
    *_mutations(
        "kernels/cpu/gradient_code.py",
        (
            'factors.inverse("q", EPSILON)))',
            'factors.inverse("q", self.lanes.tiny)))',
            _of(_SUMS, "test_1_minus_p_of_at_most_epsilon_has_no_slope[numba]"),
        ),
    ),
    *_mutations(
        "kernels/cpu/select.py",
        (
            "max(1, math.floor(k *",
            "max(1, math.ceil(k *",
            _of(_RANKED, "test_selection_is_exact"),
        ),
        ("left = min(of, n)", "left = of", _of(_RANKED, "test_more_voxels_than_count")),
        (
            "ends - counts - 1, shift, prefix)",
            "ends - counts, shift, prefix)",
            _of(_RANKED, "test_selection_is_exact"),
        ),
        (
            "if keys[j] > threshold else share",
            "if keys[j] >= threshold else share",
            _of(_RANKED, "test_ties_at_the_threshold_share[numba]"),
        ),
    ),
    *_mutations(
        "kernels/cpu/jaccard.py",
        ("if error > 0 or error != error else 0.0", "", _of("losses/test_lovasz_hinge.py", _OF_ZERO)),
        ("slopes[first] = value != 0", "slopes[first] = 1", _of("losses/test_lovasz_hinge.py", _OF_ZERO)),
        (
            "places = parts.starts + np.cumsum(by_part, 0) - by_part",
            "places = parts.starts + np.cumsum(by_part, 0)[::-1] - by_part[::-1]",
            _of(
                "losses/test_ranked.py",
                "test_equal_errors_rank_in_the_order_of_the_voxels",
                "test_large_volume_of_many_blocks_and_parts",
            ),
        ),
        (
            "union * (union + 1.0)",
            "union * union",
            _of(_RANKED, "test_sum_of_the_parts[numba]", "test_every_variant[softmax-3-lovasz]"),
        ),
    ),
    *_mutations(
        "kernels/cpu/erosion.py",
        (
            "high != 0 or low != 0  # NaN may have a sign",
            "high != 0",
            ("tests/losses/test_stencil.py", "-k", "numba and of_either_sign"),
        ),
        (
            "near |= active[z + 1, y] if z + 1 < active.shape[0] else False",
            "near |= False",
            ("tests/losses/test_stencil.py", "-k", "numba and hausdorff_erosion and ignored"),
        ),
    ),
    *_mutations(
        "kernels/cpu/threads.py",
        ("or _Threads.forked or size", "or size", ("tests/passes/test_ops.py", "-k", "fork")),
    ),
    *_mutations(
        "kernels/cpu/hausdorff.py",
        (
            "at_largest = -dot * step.scale / max(1.0, high)",
            "at_largest = -dot * step.scale",
            _of(_STENCIL, f"{_EQUAL_EXTREMES}[numba]"),
        ),
        ("total -= smallest * values.size", "pass", _of(_STENCIL, f"{_EQUAL_EXTREMES}[numba]")),
        ("[rounded, factor - float(rounded), offset]", "[rounded, 0.0, offset]", _of(_STENCIL, f"{_ONE_SIDE}[numba]")),
    ),
    *_mutations(
        "kernels/cpu/skeleton.py",
        (
            "x[i] = zero if d <= zero else d",
            "x[i] = d if d > zero else zero",
            _of(_STENCIL, "test_not_a_number_is_in_the_skeleton[numba]"),
        ),
        ("ready = max(0, start - 1)", "ready = start", _of(_STENCIL, "test_skeleton_of_several_slabs")),
        ("rest[i] *= one - residue[i]", "rest[i] = one - residue[i]", _CLDICE),
    ),
    *_mutations(
        "kernels/cpu/structure.py",
        ("x[i] = x[i] / w[i] if w[i] > 0 else zero", "x[i] = x[i] / w[i]", _STRUCTURE),
        ("out[i] += k * w[i] * (v[i] + d * d)", "out[i] += k * w[i] * (d * d)", _STRUCTURE),
        ("shift = (t - taps.size // 2) * stride", "shift = (taps.size // 2 - 1 - t) * stride", _STRUCTURE),
    ),
    *_mutations(
        "kernels/cpu/balls.py",
        ("furthest = max(furthest, reach[ball])", "furthest = reach[ball]", _BALLS),
        (
            "for side in range(2 if away > 0 else 1):\n                places",
            "for side in range(2):\n                places",
            _BALLS,
        ),
        ("inside = 0 <= y < lines", "inside = 0 < y < lines", _BALLS),
    ),
    *_mutations(
        "kernels/cpu/resample.py",
        ("rows = max(1, min(", "rows = max(0, min(", _RESAMPLE),
        ("(lines + rows - 1) // rows", "lines // rows", _RESAMPLE),
        ("planes, high = z_high[z1 - 1] + 1", "planes, high = z_high[z1 - 1]", _RESAMPLE),
        ("y_high[y1 - 1] + 1 - first_line", "y_high[y1 - 1] - first_line", _RESAMPLE),
        ("(not value <= before)", "(value > before)", _RESAMPLE),
        ("(not value <= before)", "(not value < before)", _RESAMPLE),
        ("& (before == before)", "", _RESAMPLE),
        ("        label[i] = 0\n", "", _RESAMPLE),
        ("(y_high[y] - first_line) * length", "(y_low[y] - first_line) * length", _RESAMPLE),
        ("z0, y0 = i // across * PLANES, i % across * rows", "z0, y0 = i // across * PLANES, 0", _RESAMPLE),
    ),
    *_mutations(
        "kernels/gpu/resample.py",
        ("< planes.to(INDEX) * lines * length", "<= planes.to(INDEX) * lines * length", _GPU_RESAMPLE),
        ("((value <= best) == 0)", "(value > best)", _GPU_RESAMPLE),
        ("((value <= best) == 0)", "((value < best) == 0)", _GPU_RESAMPLE),
        (" & (best == best)", "", _GPU_RESAMPLE),
        ("range(1, classes)", "range(1, classes - 1)", _GPU_RESAMPLE),
        (">= 2**31 - BLOCK", "> 2**31 - BLOCK", _GPU_RESAMPLE),
        ("max(logits.numel(), labels.numel())", "labels.numel()", _GPU_RESAMPLE),
        ("z1 * height * width, y0", "z1 * height, y0", _GPU_RESAMPLE),
    ),
    *_mutations(
        "kernels/gpu/distances.py",
        ("greatest < minplus.FAR.value and", "greatest <= minplus.FAR.value and", _GPU_NUMBERS),
        ("bits = (length - 1).bit_length()", "bits = (length - 2).bit_length()", _GPU_SITES),
        ("unit = least / parts", "unit = least", _GPU_NUMBERS),
        ("if axis.length > 1), default", "if axis.length > 0), default", _GPU_NUMBERS),
        ("> longest else 0", "> 2**40 else 0", _GPU_EXTREME),
        ("(greatest < 2**24 or not self.root)", "(greatest < 2**30)", _GPU_EXTREME),
        ("power and self.out.dtype == torch.float32", "power", _GPU_ANY),
        ("strides[-1] == stride * length", "strides[-1] >= stride * length", _GPU_ANY),
        ("LONGEST_NARROW = 2**15 - 1", "LONGEST_NARROW = 2**15", _GPU_KIND),
        ("if self.sites is not None or not deep else", "if not deep else", _GPU_SITES),
        ('* (2 if self.mode == "sides" else 1)', "", _GPU_KIND),
    ),
    *_mutations(
        "kernels/gpu/epilogue.py",
        ("channel >= PARTS[i].first", "channel > PARTS[i].first", _QUOTIENTS),
        ("channel < PARTS[i].last", "channel <= PARTS[i].last", _QUOTIENTS),
        ("there = (sample < BATCH)", "there = (sample <= BATCH)", _QUOTIENTS),
        ("& (channel < CHANNELS)\n", "& (channel <= CHANNELS)\n", _QUOTIENTS),
        ("tl.where(sample == 0, scale, 0.0)", "scale", _QUOTIENTS),
        (" & ((below != 0) | (PARTS[i].smooth_above == 0))", "", _QUOTIENTS),
        ("some_all = below_all != 0", "some_all = below_all == below_all", _QUOTIENTS),
        ("by_below = -by_above * found", "by_below = by_above * found", _QUOTIENTS),
        ("                of_below *= scale\n", "                of_below *= 1\n", _QUOTIENTS),
        ("if ADDED_TO[j] == k:", "if ADDED_TO[j] == COUNT:", _QUOTIENTS),
        ("float(np.float32(number - first))", "0.0", _QUOTIENTS),
        ("<= MOST_CELLS", "< MOST_CELLS", _QUOTIENTS),
    ),
    *_mutations(
        "kernels/gpu/unrolled.py",
        ("(place < CHUNK * COUNT) & (place < (CHANNELS - first) * COUNT)", "place < CHUNK * COUNT", _GPU_UNROLLED),
        ("(place < CHUNK * COUNT) & (place", "(place <= CHUNK * COUNT) & (place", _GPU_UNROLLED),
        ("tl.where(counted, p, 0.0), q,", "p, q,", _GPU_UNROLLED),
        ("                    value *= weight[0]\n", "                    value *= one\n", _GPU_UNROLLED),
        ("first + c, present, counted, slope", "first + c, inside, counted, slope", _GPU_UNROLLED),
        ("plus(rest_quiet, quiet(rest, parts[0]))", "plus(rest_quiet, rest)", _GPU_UNROLLED),
        ("            if AXES[3] > 0:\n", "            if AXES[3] > 1:\n", _GPU_UNROLLED),
        ("(sums[c * COUNT + k] + value,)", "(value,)", _of(_GPU, "test_sums_of_several_tiles")),
        (
            "pair = tl.join(level[i], level[i + (SIZE >> (step + 1))])",
            "pair = tl.join(level[i], level[i])",
            _GPU_UNROLLED,
        ),
    ),
    *_mutations(
        "kernels/gpu/steps.py",
        ("lines - line, found", "lines - line - 1, found", _GPU_DISTANCES),
        ("plane + 1, found)", "plane, found)", _GPU_DISTANCES),
        ("mask & (value > known)", "mask & (value < known)", _GPU_DISTANCES),
        ("steps = tl.where(behind < ahead, ~steps, steps)", "steps = steps", _GPU_DISTANCES),
    ),
    *_mutations(
        "kernels/gpu/minplus.py",
        ("tl.maximum(first - end + 1,", "tl.maximum(first - end + 2,", _GPU_DISTANCES),
        ("begin - first - TILE + 1), 1)", "begin - first - TILE + 2), 1)", _GPU_DISTANCES),
        ("k += AHEAD", "k += AHEAD + 1", _GPU_DISTANCES),
        ("tl.where(some_outside, begin_inside, length)", "length", _GPU_DISTANCES),
        ("several = several & (end_inside > 0)", "several = several | (end_inside > 0)", _GPU_DISTANCES),
    ),
    *_mutations(
        "kernels/gpu/tiles.py",
        ("tl.load(at, channel < CHANNELS, other=0)", "tl.load(at, channel <= CHANNELS, other=0)", _GPU_ROWS),
        (
            "return tl.where(small.to(tl.int64) == labels, small, -1)",
            "return small",
            _of(_GPU, "test_labels_that_do_not_fit_are_no_class"),
        ),
        (
            "counted = counted & (factor != 0)",
            "counted = counted & inside",
            _of(_GPU, "test_voxels_of_weight_zero_may_hold_anything"),
        ),
        ("tl.where(counted, narrow(labels), -1)", "narrow(labels)", _of(_GPU, "test_activation_target_and_weights")),
        (
            "return voxel >= voxel if EVEN else voxel < voxels",
            "return voxel >= voxel if EVEN else voxel <= voxels",
            _of(_GPU, "test_dimensions"),
        ),
    ),
    *_mutations(
        "kernels/gpu/math.py",
        ("tl.where(positive, 0.0, -z)", "tl.where(positive, 0.0, z)", _of(_GPU, "test_channels")),
        (
            "tl.where(p < EPSILON, EPSILON, p)",
            "tl.where(p < 0.0, EPSILON, p)",
            _of(_PRODUCTS, "test_powers_of_logarithms_are_of_at_least_epsilon[triton]"),
        ),
        ("log, guess - guess * (total * guess - 1.0)", "log, guess * 1.00001", _of(_GPU, "test_channels")),
    ),
    *_mutations(
        "kernels/gpu/products.py",
        ("(p < y) | ~miss", "p < y", (*_SLOPES, "-k", "triton", "-m", "slow or not slow")),
        (
            "L == 0 and M == 0 and (DENSE or Q == 0)",
            "DENSE or Q == 0",
            _of(_GPU, "test_impossible_classes_and_huge_logits") + _of(_GPU_PRODUCTS, "test_impossible_classes"),
        ),
        (
            "tl.where(log <= EPSILON, 0.0, EXPONENT * lowered)",
            "EXPONENT * lowered",
            _of(_PRODUCTS, "test_powers_of_logarithms_are_of_at_least_epsilon[triton]"),
        ),
        (
            "others = tl.where(p > 0.5, rest_quiet[0], rest_total[0] - rest[0])",
            "others = rest_total[0] - rest[0]",
            _of(_SUMS, "test_confident_wrong_predictions_keep_their_gradient[triton-softmax]"),
        ),
    ),
    *_mutations(
        "kernels/gpu/softmax.py",
        ("axis=0)[None, :] - 1.0)", "axis=0)[None, :])", _of(_GPU_MANY, "test_weights_over_many_channels")),
        (
            'rest = rest + tl.where(tl.abs(top) < -lowest, 0.0, float("nan"))',
            "rest = rest + 0.0",
            _of(_GPU_MANY, "test_a_softmax_of_infinities_is_not_a_number"),
        ),
        (
            "q = tl.where(z - top == 0.0, rest * reciprocal, 1.0 - p)",
            "q = 1.0 - p",
            _of(_GPU_PRODUCTS, "test_confident_voxels_keep_all_digits", "test_channels"),
        ),
        (
            "rest += tl.floor(total - rest + 0.5) - 1.0",
            "rest += 0.0",
            _of(_GPU_MANY, "test_several_leading_classes"),
        ),
        (
            "(tl.where(channel < CHANNELS, z[PIECES - 1], top),)",
            "(z[PIECES - 1],)",
            _of(_GPU_MANY, "test_unions_of_terms"),
        ),
        (
            "if TERMS[k].l > 0 and TERMS[k].l < 1:",
            "if TERMS[k].l > 9:",
            _of(_GPU_PRODUCTS, "test_confident_voxels_keep_all_digits"),
        ),
    ),
    *_mutations(
        "kernels/gpu/rows.py",
        ("present = inside & (channel < CHANNELS)", "present = inside", _GPU_ROWS),
        (
            "tl.sum(sums[i * COUNT + k], axis=1), row < CHANNELS)",
            "tl.sum(sums[i * COUNT + k], axis=1), row <= CHANNELS)",
            _GPU_ROWS,
        ),
        ("tl.sum(terms[k], axis=1), row < CHANNELS)", "tl.sum(terms[k], axis=1), row <= CHANNELS)", _GPU_ROWS),
        ("plus(sums[2], quiet(rest, p))", "plus(sums[2], rest)", _GPU_ROWS),
        ("            value *= map_value\n", "            value *= one\n", _GPU_ROWS),
        ("            value *= weight[0]\n", "            value *= one\n", _GPU_ROWS),
        (
            "found[i][3])\n                write(grad, grad_place, channel, inside & (channel < CHANNELS),",
            "found[i][3])\n                write(grad, grad_place, channel, inside,",
            _GPU_ROWS,
        ),
        (
            "totals, p, q)\n                write(grad, grad_place, channel, inside & (channel < CHANNELS),",
            "totals, p, q)\n                write(grad, grad_place, channel, inside,",
            _GPU_ROWS,
        ),
        (
            "(sample * programs + part) * CHANNELS * COUNT",
            "sample * programs * CHANNELS * COUNT",
            _of(_GPU_MANY, "test_sums_go_on_from_tile_to_tile"),
        ),
        (
            "row < tl.where(part * tiles < tile, CHANNELS, 0)",
            "row < CHANNELS",
            _of(_GPU_MANY, "test_weights_over_many_channels"),
        ),
        (
            "(sums[i * COUNT + k] + value,)",
            "(value,)",
            _of(_GPU_MANY, "test_sums_go_on_from_tile_to_tile"),
        ),
    ),
    *_mutations(
        "kernels/gpu/sums.py",
        (
            "coefficients[..., other].add_(grad_sums[..., k])",
            "coefficients[..., other].add_(0)",
            _of(_GPU_PRODUCTS, "test_a_product_asked_for_twice_and_its_share"),
        ),
        (
            " and first(plan.terms[k]) == k]",
            "]",
            _of(_GPU_PRODUCTS, "test_a_product_asked_for_twice_and_its_share"),
        ),
        ("voxels < 2**31 - 2**16", "voxels < 2**32", _of(_GPU, "test_grids_are_one_dimensional_and_programs_bounded")),
        (
            "far = 1 if channel * tensor.shape[1] >= 2**31 else None",
            "far = None",
            _of(_GPU, "test_channels_farther_apart_than_32_bits_count"),
        ),
        (
            '"EVEN": voxels % tile.voxels == 0',
            '"EVEN": voxels > tile.voxels',
            _of(_GPU, "test_every_tile_has_a_program"),
        ),
    ),
    *_mutations(
        "kernels/gpu/geometry.py",
        (
            "return wanted, -(-tiles // wanted)",
            "return wanted, tiles // wanted",
            _of(_GPU, "test_every_tile_has_a_program"),
        ),
        (
            "min(wanted, MAX_VOXELS // tile.voxels)",
            "wanted",
            _of(_GPU, "test_grids_are_one_dimensional_and_programs_bounded"),
        ),
        ("term.d or term.l % 1 for", "term.d for", _of(_GPU_PRODUCTS, "test_confident_voxels_keep_all_digits")),
        ("any(term.q or term.m", "any(term.q", _of(_GPU_MANY, "test_several_leading_classes")),
    ),
    *_mutations(
        "kernels/gpu/voxels.py",
        (
            "total += tl.where(channel < CHANNELS, value, 0.0)",
            "total += value",
            _of("kernels/gpu/test_gpu_ranked.py", "test_values"),
        ),
        (
            "tl.where(parts[0] < -1.0, 0.0, 1.0 + parts[0])",
            "1.0 + parts[0]",
            _of("kernels/gpu/test_gpu_ranked.py", "test_values") + _of("losses/test_lovasz_hinge.py", _OF_ZERO),
        ),
        (
            "tl.where(counted, tl.abs(value), -1.0)",
            "tl.where(counted, value, -1.0)",
            ("tests/losses/test_ranked.py", "-k", "triton and (saturated or number or errors_equal or all_voxels)"),
        ),
        (
            "            value = tl.where(counted, value, 0.0)\n",
            "",
            _of("kernels/gpu/test_gpu_ranked.py", "test_values"),
        ),
    ),
    *_mutations(
        "kernels/gpu/ranked.py",
        (
            "labels = target if channels <= 100 or",
            "labels = target if channels <= 300 or",
            _of(_RANKED, "test_more_classes_than_the_labels_can_tell[triton]"),
        ),
    ),
    *_mutations(
        "kernels/gpu/neighbours.py",
        ("inside = inside & (at < size - STEP)", "inside = inside & (at <= size - STEP)", _GPU_STENCIL),
    ),
    *_mutations(
        "kernels/gpu/skeleton.py",
        ("smaller = other < value", "smaller = other <= value", _EQUAL),
        ("larger = other > value", "larger = other >= value", _EQUAL),
    ),
    *_mutations(
        "kernels/gpu/erosion.py",
        (
            "tl.where(largest, 1.0, (value - low) * scale)",
            "(value - low) * scale",
            _of(_STENCIL, "test_of_two_values_no_derivative_is_left[triton]"),
        ),
        (
            "total += tl.where(there, tl.load(x + base + place, there, other=0) - low, 0.0)",
            "total += tl.load(x + base + place, there, other=0) - low",
            _of(_STENCIL, "test_the_smallest_value_is_not_taken_from_what_is_outside[triton]"),
        ),
        ("(total * share - 0.5) + total * rest", "total * share - 0.5", _of(_STENCIL, f"{_ONE_SIDE}[triton]")),
    ),
    *_mutations(
        "kernels/gpu/stencils.py",
        (
            "-dot * scale / at_high.clamp_min(1)",
            "-dot * scale",
            _of(_STENCIL, f"{_EQUAL_EXTREMES}[triton]"),
        ),
        (
            "(partial[..., 2].sum(1, dtype=torch.float64) - v.voxels * low.double())",
            "partial[..., 2].sum(1, dtype=torch.float64)",
            _of(_STENCIL, f"{_EQUAL_EXTREMES}[triton]"),
        ),
        ("counted = None if mask is None else mask != 0  #", "counted = mask  #", _GPU_STENCIL),
    ),
    *_mutations(
        "csrc/planner.hpp",
        ("kLargestStep = 181 /", "kLargestStep = 260 /", _FIELDS),
        ("label_bytes > 4)", "label_bytes > 8)", _FIELDS),
        ("metric.greatest_square >= static_cast<double>(kFar<std::int32_t>)", "false", _FIELDS),
        ("label_bytes <= 2 &&", "label_bytes <= 4 &&", _FIELDS),
        (
            "metric.greatest_square >= static_cast<double>(kFar<std::int32_t>)",
            "metric.greatest_square > static_cast<double>(kFar<std::int32_t>)",
            _LONG,
        ),
        ("- 1) / (shape.rows * shape.columns);", ") / (shape.rows * shape.columns);", _LONG),
    ),
    *_mutations(
        "csrc/minplus.hpp",
        ("mode == Mode::kMask ? 0 : 1", "0", _FIELDS),
        (
            "static_cast<std::int64_t>(steps) + 1 : lines.length",
            "static_cast<std::int64_t>(steps) - 1 : lines.length",
            _FIELDS,
        ),
        ("any(empty) ? kFar<T> : most(greatest)", "most(greatest)", _FIELDS),
        ("kFar<std::uint16_t> = 0x7fff", "kFar<std::uint16_t> = 0xffff", _FIELDS),
    ),
    *_mutations(
        "csrc/grid.hpp",
        ("kRounding = 4 * std::numeric_limits<double>::epsilon()", "kRounding = 1e-3", _FIELDS),
        ("whole = whole && unit > 1e-100 && unit < 1e100;", "", _FIELDS),
    ),
    *_mutations(
        "csrc/tiles.hpp",
        ("sizeof(T) == 2 ? 182 : 32768", "sizeof(T) == 2 ? 181 : 32768", _FIELDS),
        (
            "return finish.negative_inside && !is_outside(number) ? -distance : distance;",
            "return finish.negative_inside && is_outside(number) ? -distance : distance;",
            _FIELDS,
        ),
        ("k <= kReach; ++k", "k < kReach; ++k", _FAR_APART),
        ("steps == kNoSite ? kFar<T> :", "steps == kInside ? kFar<T> :", _FAR_APART),
    ),
    *_mutations(
        "csrc/plane.hpp",
        ("static_cast<double>(greatest_) < 0x1p24 &&", "", _FIELDS),
        ("std::frexp(unit, &exponent) == 0.5 &&", "std::frexp(unit, &exponent) > 0 &&", _FIELDS),
        ("        clear_rows(plane.rows);\n        greatest_", "        greatest_", _FIELDS),
        ("(found.in_all & kNoSite) != kNoSite", "(found.in_any & kNoSite) != kNoSite", _FEW),
        ("outcome.greatest >= kFar<T>", "outcome.greatest > kFar<T>", _LONG),
        ("return found.in_all == found.in_any;", "return true;", _FEW),
    ),
    *_mutations(
        "csrc/worker.hpp",
        ("voxel_at<Voxel>(plane.mask + plane.grid.offset(flat - away)) == 0;", "true;", _SITES),
    ),
    *_mutations(
        "csrc/steps.hpp",
        ("std::min(steps, same ? one_further(next) : 1)", "std::min(steps, same ? one_further(next) : 2)", _FEW),
        ("steps + (steps != kNoSite)", "steps + 1", _LONG),
        ("std::int64_t i = planes - 2; i >= 0; --i", "std::int64_t i = planes - 2; i > 0; --i", _FEW),
    ),
]
