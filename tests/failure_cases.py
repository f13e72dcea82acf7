"""Failures that users of other libraries met, and the tests that this package does not have them.

A row: what happened elsewhere, and addresses of tests, as files below tests/ and functions.
``test_failure_cases.py`` fails for a row whose tests are missing.
"""

_SUMS, _OPS, _RANKED_OPS = "kernels/test_sums.py::", "passes/test_ops.py::", "passes/test_ranked_ops.py::"
_LOSSES, _EXTREMES, _ERRORS = "losses/test_losses.py::", "losses/test_extremes.py::", "losses/test_errors.py::"
_RANKED, _STENCIL, _BOUNDARY = "losses/test_ranked.py::", "losses/test_stencil.py::", "losses/test_boundary.py::"
_FRICTION, _SOFT = "losses/test_friction.py::", "losses/test_soft_labels.py::"
_IDENTITIES, _DEEP = "losses/test_identities.py::", "losses/test_deep_supervision.py::"
_DISTANCE, _FIELDS = "distance/test_distance.py::", "distance/test_distance_fields.py::"
_MEMORY = "distance/test_distance_memory.py::"
_METRICS, _SURFACE = "metrics/test_metrics.py::", "metrics/test_surface.py::"
_GPU, _GPU_PRODUCTS = "kernels/gpu/test_gpu_interpreter.py::", "kernels/gpu/test_gpu_products.py::"
_CODES, _COLD, _PACKAGE = "kernels/test_plan_codes.py::", "kernels/test_cold_start.py::", "test_package.py::"
_INPUTS, _OPTIONS = "losses/test_inputs.py::", "losses/test_options.py::"
_NIFTI, _LAYOUTS, _TRAINED = (
    "bench/test_bench_nifti.py::",
    "bench/test_bench_layouts.py::",
    "bench/test_bench_experiment.py::",
)
_READ = "bench/test_bench_datasets.py::"
_EVERY = "test_every_class.py::"  # each public loss on each back end
_MAPS, _DDP, _HERE = "test_precompute.py::", "passes/test_distributed.py::", "test_failure_cases.py::"

CASES = {
    "float16 logits whose sum of probabilities passes 65504": (
        _EVERY + "test_half_precision_is_the_loss_of_its_float32",
        _HERE + "test_sums_of_probabilities_past_the_largest_half",
        _HERE + "test_half_precision_of_many_voxels_is_that_of_float32",
        _EXTREMES + "test_half_precision_past_the_largest_half",
        _EXTREMES + "test_half_precision_errs_no_more_than_plain_code",
        _EXTREMES + "test_formulas_of_the_sums_of_a_large_volume",
    ),
    "means over many voxels, in float16 and float32": (
        _HERE + "test_a_mean_over_many_voxels_of_float16_is_that_of_float64",
        _CODES + "test_one_class_everywhere",
        _SUMS + "test_chunk_and_tile_borders",
    ),
    "logits of ±1e8, focal gamma of 0 and 0.5 at saturation": (
        _EXTREMES + "test_saturated_logits",
        _EXTREMES + "test_saturation_on_every_back_end",
        _EXTREMES + "test_focal_of_a_saturated_voxel",
        _RANKED + "test_saturated_logits",
        _HERE + "test_saturated_logits_of_stencils",
        _GPU_PRODUCTS + "test_saturated_logits",
        _GPU + "test_impossible_classes_and_huge_logits",
    ),
    "squared Dice of tiny denominators, generalised Dice of an absent class": (
        _EXTREMES + "test_absent_classes_and_one_voxel",
        _EXTREMES + "test_absent_class_takes_the_largest_weight_of_generalized_dice",
        _EXTREMES + "test_one_class_fills_the_volume",
    ),
    "all voxels ignored": (
        _EVERY + "test_nothing_counts",
        _EXTREMES + "test_everything_ignored_is_zero_with_zero_gradient",
        _EXTREMES + "test_everything_masked_on_every_back_end",
        _EXTREMES + "test_an_ignored_sample_adds_nothing",
        _RANKED + "test_nothing_counts",
        _STENCIL + "test_nothing_to_count",
        _METRICS + "test_nothing_counts",
    ),
    "ignored 255 of 6, 19 and 20 classes, an ignored class, several ignored labels": (
        _EVERY + "test_ignored_voxels_are_masked_ones",
        _HERE + "test_ignored_labels_equal_voxels_taken_out_by_hand",
        _SUMS + "test_dtypes_with_ignored_and_masked_voxels",
        _LOSSES + "test_labels_with_ignored_and_masked_voxels",
        _RANKED + "test_labels_with_ignored_and_masked_voxels",
        _STENCIL + "test_ignored_and_masked_voxels_leave_everything",
        _METRICS + "test_ignored_and_masked_voxels",
        _SURFACE + "test_voxels_that_do_not_count_are_outside",
    ),
    "a mask applied before the softmax": (
        _EVERY + "test_ignored_voxels_are_masked_ones",
        _SUMS + "test_dtypes_with_ignored_and_masked_voxels",
        _LOSSES + "test_labels_with_ignored_and_masked_voxels",
        _RANKED + "test_labels_with_ignored_and_masked_voxels",
        _STENCIL + "test_ignored_and_masked_voxels_leave_everything",
        _GPU + "test_activation_target_and_weights",
    ),
    "labels of C and more or below 0, label ids with gaps": (
        _HERE + "test_a_label_that_is_no_class_is_named",
        _ERRORS + "test_label_check_on_every_back_end",
        _ERRORS + "test_unchecked_bad_label_counts_as_no_class",
        _ERRORS + "test_bad_label_of_an_ignored_or_masked_voxel_is_no_error",
        _RANKED + "test_bad_labels_are_no_class",
        _STENCIL + "test_bad_labels_are_named",
        _GPU + "test_labels_that_do_not_fit_are_no_class",
        _METRICS + "test_a_bad_label_is_found_in_any_slab",
    ),
    "one channel with a softmax": (_HERE + "test_one_channel_of_a_softmax_is_an_error",),
    "include_background=False with class weights": (
        _LOSSES + "test_reductions_of_the_table",
        _ERRORS + "test_error_names_what_came_and_what_was_expected",
        _RANKED + "test_options_of_lovasz",
    ),
    "a batch is the loop over its samples, a class absent in one": (
        _IDENTITIES + "test_batch_equals_the_loop_over_samples",
        _RANKED + "test_one_sample_is_its_own_batch",
        _STENCIL + "test_samples_do_not_see_one_another",
        _EXTREMES + "test_an_ignored_sample_adds_nothing",
    ),
    "backward of a weighted sum of reduction='none'": (
        _EVERY + "test_a_sum_of_a_table_has_weights",
        _LOSSES + "test_weighted_backward_of_a_table",
        _LOSSES + "test_tables_add_up_to_the_sum",
        _RANKED + "test_table_of_lovasz",
        _STENCIL + "test_samples_do_not_see_one_another",
    ),
    "logits without a gradient, no_grad, a frozen part of a graph": (
        _EVERY + "test_graphs",
        _OPS + "test_no_gradient_wanted",
        _RANKED_OPS + "test_no_gradient_retained_graph_and_inputs_unchanged",
        _STENCIL + "test_without_a_gradient_and_in_deterministic_mode",
    ),
    "two losses on one logits tensor, checkpointing, retain_graph": (
        _EVERY + "test_graphs",
        _OPS + "test_two_losses_checkpoint_and_retained_graph_on_the_same_logits",
        _OPS + "test_logits_changed_in_place_are_noticed",
        _RANKED_OPS + "test_no_gradient_retained_graph_and_inputs_unchanged",
        _SUMS + "test_layouts_equal_contiguous",
    ),
    "2^31 elements and more": (
        _HERE + "test_elements_past_two_to_the_31st",
        _GPU + "test_elements_past_two_to_the_31st",
        _MEMORY + "test_more_than_2_to_the_31_voxels",
    ),
    "a grid beyond 65535 rows": (
        _HERE + "test_more_samples_than_a_grid_has_rows",
        _GPU + "test_grids_are_one_dimensional_and_programs_bounded",
    ),
    "logits on cuda:1 while cuda:0 is current": (_HERE + "test_logits_on_another_gpu_than_the_current_one",),
    "channels_last, sliced, permuted, expanded, empty, one voxel": (
        _EVERY + "test_strides",
        _EVERY + "test_no_voxel_and_one",
        _SUMS + "test_layouts_equal_contiguous",
        _GPU + "test_layouts_give_the_same_bits",
        _RANKED + "test_strides",
        _STENCIL + "test_layouts_and_label_dtypes",
        _OPS + "test_gradient_keeps_the_layout_of_the_logits",
        _EXTREMES + "test_empty_input_is_zero",
        _EXTREMES + "test_absent_classes_and_one_voxel",
        _METRICS + "test_layouts_and_inputs_stay",
        "test_fuzz.py::test_inputs_of_every_kind",
    ),
    "bool, uint8 and int16 labels, one-hot, multi-label": (
        _EVERY + "test_labels_of_any_dtype",
        _SUMS + "test_label_dtypes_and_strides",
        _SUMS + "test_dense_targets",
        _GPU + "test_label_dtypes",
        _GPU + "test_dense_dtypes",
        _RANKED + "test_label_dtypes",
        _STENCIL + "test_dense_targets",
        _IDENTITIES + "test_one_hot_target_equals_labels",
        _DEEP + "test_target_is_not_copied",
        _METRICS + "test_label_dtypes",
    ),
    "torch.compile, dynamic shapes, CUDA graphs, MetaTensor": (
        _OPS + "test_compiles_without_breaks_and_with_dynamic_shapes",
        _OPS + "test_every_loss_compiles_without_breaks",
        _RANKED_OPS + "test_compiles_without_breaks_and_with_dynamic_shapes",
        _STENCIL + "test_compiles_without_breaks",
        _BOUNDARY + "test_compiles_without_breaks_in_any_size",
        _DEEP + "test_compiles_without_breaks",
        _LOSSES + "test_monai_meta_tensors_are_unwrapped",
        _DISTANCE + "test_tensor_subclasses_are_unwrapped",
        _METRICS + "test_metatensors_are_unwrapped",
        _HERE + "test_a_step_is_captured_as_a_cuda_graph",
    ),
    "gradcheck with kernels truly in float64": (
        _SUMS + "test_gradcheck_in_float64",
        _RANKED + "test_gradcheck",
        _STENCIL + "test_gradcheck",
    ),
    "the same bits in any run and for any number of threads": (
        _OPS + "test_deterministic_mode",
        _OPS + "test_bitwise_repeatable_for_any_number_of_threads",
        _RANKED_OPS + "test_bitwise_repeatable_for_any_number_of_threads",
        _STENCIL + "test_bitwise_repeatable_for_any_number_of_threads",
        _DISTANCE + "test_any_number_of_threads_gives_the_same_bits",
        "kernels/test_bits.py::test_a_case_of_each_loss",
        _GPU + "test_same_bits_every_time_and_sample_by_sample",
    ),
    "one process of DDP, and two": (
        _DDP + "test_two_processes_have_the_loss_of_the_whole_batch",
        _DDP + "test_a_networks_gradient_is_that_of_one_process",
    ),
    "vmap, double backward, forward mode": (
        _OPS + "test_double_backward_raises",
        _OPS + "test_forward_mode_raises",
        _OPS + "test_functorch_raises_clearly",
        _RANKED_OPS + "test_further_derivatives_raise",
        _STENCIL + "test_further_derivatives_raise",
    ),
    "distances of full and empty masks, of long axes, of 2^31 voxels, squared beyond 2^24": (
        _DISTANCE + "test_masks_of_one_value",
        _FIELDS + "test_empty_and_full_masks_have_a_zero_field",
        _FIELDS + "test_long_axes",
        _MEMORY + "test_more_than_2_to_the_31_voxels",
        _SURFACE + "test_all_foreground",
        _BOUNDARY + "test_a_volume_of_one_region_has_plain_losses",
    ),
    "anisotropic spacing of signed maps and of the Hausdorff distance": (
        _FIELDS + "test_signed_map_of_half_millimetre_columns",
        _BOUNDARY + "test_signed_maps_against_brute_force",
        _SURFACE + "test_brute_force",
    ),
    "Fortran order, strided masks, indices with leading axes": (
        _DISTANCE + "test_memory_layouts",
        _FIELDS + "test_leading_axes_of_any_strides",
        _FIELDS + "test_indices_of_larger_volumes_and_of_leading_axes",
    ),
    "2000 calls in a row": (
        "bench/test_bench_endurance.py::test_two_thousand_steps_of_every_loss",
        _OPS + "test_two_thousand_calls_keep_memory_flat",
        _FIELDS + "test_nothing_is_kept_over_two_thousand_calls",
    ),
    "kernels in forked workers and in several threads at once": (
        "kernels/test_processes.py::test_workers_of_every_start_method",
        _OPS + "test_several_python_threads_at_once",
        _OPS + "test_forked_worker_after_parallel_use_in_the_parent",
        _RANKED_OPS + "test_forked_worker_after_parallel_use_in_the_parent",
        _DISTANCE + "test_many_python_threads_at_once",
        _DISTANCE + "test_forked_child_after_use_in_the_parent",
        _MAPS + "test_workers_give_the_maps_of_the_batch",
    ),
    "import without Triton, without a GPU, from a read-only folder": (
        _PACKAGE + "test_losses_run_where_triton_is_missing",
        _PACKAGE + "test_import_brings_in_nothing_heavy",
        _COLD + "test_a_read_only_package_keeps_its_kernels_in_the_users_cache",
        _OPS + "test_falls_back_to_the_reference_with_one_warning",
    ),
    "processes racing on a cold kernel cache": (
        "kernels/test_processes.py::test_two_processes_on_a_cold_cache",
        "kernels/test_processes.py::test_a_kill_while_the_cache_is_written",
        _OPS + "test_processes_racing_on_a_cold_kernel_cache",
        _MAPS + "test_processes_share_a_file",
    ),
    "NaN or infinity in the logits of a voxel that counts": (
        _EVERY + "test_what_is_no_number_is_not_hidden",
        _INPUTS + "test_nan_and_infinite_logits_are_not_hidden",
        _ERRORS + "test_nan_in_a_counted_voxel_is_not_hidden",
        _RANKED + "test_not_a_number_is_not_hidden",
        _STENCIL + "test_not_a_number_is_not_hidden",
        _GPU + "test_not_a_number_is_not_hidden",
        _CODES + "test_bad_values_come_through",
    ),
    "equal logits, as of a new network": (
        _HERE + "test_equal_logits_of_any_dtype_and_number_of_classes",
        _CODES + "test_equal_logits_of_a_new_network",
    ),
    # wrong numbers without an error
    "an argument that is accepted and not read": (
        _INPUTS + "test_a_map_that_is_not_read_is_refused",
        _INPUTS + "test_voxel_sums_refuse_a_map_that_no_term_reads",
        _INPUTS + "test_a_mask_weighs_voxels_and_what_a_mean_divides_by",
    ),
    "ignored labels beyond 32 bits": (
        _INPUTS + "test_an_ignored_label_of_any_value",
        _INPUTS + "test_an_ignored_label_that_the_dtype_cannot_hold_ignores_nothing",
        _METRICS + "test_ignored_labels_beyond_31_bits",
        "test_fuzz.py::test_inputs_of_every_kind",
    ),
    "the gradient of learnable weights is cut": (
        _OPTIONS + "test_a_parameter_has_the_gradient_of_finite_differences",
        _OPTIONS + "test_one_weight_is_learned",
        _OPTIONS + "test_tensors_whose_gradient_would_be_cut_are_refused",
    ),
    "attributes that look as if they could be set": (
        _OPTIONS + "test_options_are_fixed",
        _OPTIONS + "test_compounds_tell_what_they_do",
        _OPTIONS + "test_repr_has_what_was_given",
    ),
    "targets and masks of 0 and 255, values out of range": (
        _INPUTS + "test_integers_of_a_mask_say_whether_a_voxel_counts",
        _INPUTS + "test_integers_of_a_dense_target_say_what_is_true",
        _INPUTS + "test_validate_names_a_value_out_of_range",
        _METRICS + "test_masks_of_bytes_are_true_where_they_are_not_zero",
        _DISTANCE + "test_integer_dtypes",
    ),
    "NaN in all logits passes for background": (
        _INPUTS + "test_nan_and_infinite_logits_are_not_hidden",
        _METRICS + "test_nan_does_not_pass_for_background",
    ),
    "specificity of a class that is in neither": (
        _METRICS + "test_healthy_subjects_stay_in_the_mean_specificity",
        _METRICS + "test_scores_are_nan_where_they_are_nothing_over_nothing_and_nowhere_else",
    ),
    "names and paths from files, archives that lie": (
        "test_untrusted.py::test_sources_run_nothing_that_a_file_holds",
        "bench/test_bench_html.py::test_names_from_files_are_text_on_the_page_and_in_the_terminal",
        _NIFTI + "test_bombs_and_lies_are_refused_before_memory_is_taken",
        _LAYOUTS + "test_paths_of_a_dataset_json_stay_in_its_folder",
    ),
    "subjects on both sides of a split": (
        _LAYOUTS + "test_no_person_is_on_two_sides_of_a_split",
        _LAYOUTS + "test_persons_are_what_first_differs",
    ),
    "labels taken for masks": (
        _READ + "test_one_voxel_that_is_no_label_turns_no_labels_into_masks",
        _READ + "test_shares_are_masks_only_where_all_files_are",
    ),
    "geometry compared in another unit than mm": (_READ + "test_places_are_compared_in_mm_at_the_corners",),
    "cut ends of a volume as surfaces": (_TRAINED + "test_hd95_of_some_slices_is_of_the_whole_volumes_surfaces",),
    # crashes, and errors that do not help
    "single slices, volumes of one slice": (
        _TRAINED + "test_single_slices_train_and_are_scored",
        _METRICS + "test_volumes_of_one_slice",
        _SURFACE + "test_the_spacing_says_how_many_axes_there_are",
    ),
    "an unknown datatype or a negative size in a NIfTI header": (
        _NIFTI + "test_headers_of_anything_are_refused_or_read_right",
        _NIFTI + "test_headers_that_lie_are_refused_by_name",
    ),
    "labels of flipped and big-endian arrays, on the default device, in a cache": (
        _METRICS + "test_arrays_of_any_layout",
        _METRICS + "test_the_default_device_does_not_matter",
        _SURFACE + "test_arrays_and_the_default_device",
    ),
    "uint16, uint32 and uint64 labels": (_INPUTS + "test_unsigned_labels", _METRICS + "test_label_dtypes"),
    "float labels of whole numbers": (
        _INPUTS + "test_whole_numbers_as_floats_are_labels",
        _INPUTS + "test_a_fraction_among_labels_is_named",
    ),
    "numbers of NumPy and tensors without axes as options": (
        _OPTIONS + "test_scalars_of_other_libraries_are_numbers",
        _SURFACE + "test_numbers_of_numpy_and_torch",
    ),
    "NUMBA_DISABLE_JIT=1": (_OPTIONS + "test_numba_without_its_compiler_is_the_reference",),
    "torch.jit.script of a network that holds a loss": (_OPTIONS + "test_a_network_that_holds_a_loss_can_be_scripted",),
    "a process group under torch.compile, copied and saved": (_DDP + "test_compiled_and_by_the_name_of_a_group",),
    "linked folders, odd names of folders, nnU-Net's layout, ITK's vectors": (
        _LAYOUTS + "test_linked_derivatives_are_found_once",
        _LAYOUTS + "test_folders_of_odd_names",
        _LAYOUTS + "test_nnunet_has_a_file_for_each_channel_and_an_ignored_label",
        _NIFTI + "test_channels_of_itk_and_others",
    ),
    "another torch than the newest": (_OPS + "test_compiles_without_breaks_and_with_dynamic_shapes",),
    "soft labels whose Dice is least for another prediction": (
        _SOFT + "test_the_least_is_where_the_prediction_is_the_soft_label",
        _SOFT + "test_monai_has_the_same",
        _SOFT + "test_the_term_and_its_slope",
    ),
    "float labels, lists of targets and options as other libraries name them": (
        _FRICTION + "test_f1_float_labels_with_a_channel_axis",
        _FRICTION + "test_f1b_float_labels_of_label_maps",
        _FRICTION + "test_f1e_float_targets_of_metrics",
        _FRICTION + "test_f3_a_list_of_targets",
        _FRICTION + "test_f11_logits_may_be_named_input",
        _FRICTION + "test_f12_options_of_other_libraries_are_answered_with_ours",
    ),
    "half a voxel between labels of a coarse level and nnU-Net's": (
        _FRICTION + "test_f2_deep_supervision_with_the_numbers_of_nnunet",
        _DEEP + "test_nearest_exact_of_any_sizes",
    ),
    "a head of weight 0 that DistributedDataParallel waits for": (
        _FRICTION + "test_f14_and_f15_two_processes",
        _DEEP + "test_a_level_of_weight_zero_is_not_computed",
    ),
    # asked for
    "a spacing for each sample of a batch": (
        _INPUTS + "test_each_sample_has_its_spacing",
        _SURFACE + "test_a_spacing_for_each_sample",
    ),
    "a border that counts as background": (_DISTANCE + "test_black_border_is_a_layer_of_zeros",),
    "precision, and the confusion matrix": (_METRICS + "test_confusion_matrix",),
    "the HD95 of MedPy, surfaces as areas": (
        _SURFACE + "test_pooled_percentile_is_medpys",
        _SURFACE + "test_subvoxels_are_those_of_monai",
    ),
    # what fuzzing found
    "rounding that passes for a difference": (
        _STENCIL + "test_rounding_is_no_structure",
        "kernels/test_products.py::test_distance_to_a_dense_target_has_all_digits_where_p_is_nearly_1",
    ),
    "a formula of 0 / 0, a map of NaN where nothing counts": (
        _SUMS + "test_what_does_not_count_is_0_whatever_its_map_and_coefficients",
    ),
    # what a mutation survived
    "an option that the digest of a cache leaves out": (
        _MAPS + "test_the_cache_is_read_and_follows_labels_and_options",
    ),
}
