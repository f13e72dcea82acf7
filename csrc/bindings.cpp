#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "edt.hpp"

namespace py = pybind11;

namespace {

using fastloss::Batch;
using fastloss::Mode;

// Byte offsets of the first voxels of all volumes, in C order of the leading axes.
std::vector<std::ptrdiff_t> volume_offsets(const py::array& mask, py::ssize_t leading) {
    std::vector<std::ptrdiff_t> offsets{0};
    for (py::ssize_t axis = 0; axis < leading; ++axis) {
        std::vector<std::ptrdiff_t> finer;
        finer.reserve(offsets.size() * static_cast<std::size_t>(mask.shape(axis)));
        for (const std::ptrdiff_t offset : offsets)
            for (py::ssize_t index = 0; index < mask.shape(axis); ++index) finer.push_back(offset + index * mask.strides(axis));
        offsets = std::move(finer);
    }
    return offsets;
}

fastloss::Grid grid_of(const py::array& mask, const std::vector<double>& spacing) {
    const py::ssize_t leading = mask.ndim() - static_cast<py::ssize_t>(spacing.size());
    if (leading < 0) throw std::invalid_argument("more spacings than axes");
    std::vector<fastloss::Axis> axes;
    for (py::ssize_t axis = leading; axis < mask.ndim(); ++axis)
        axes.push_back({mask.shape(axis), mask.strides(axis), spacing[static_cast<std::size_t>(axis - leading)]});
    return fastloss::Grid(axes);
}

// Ctrl-C and other signals, whose Python handlers run on the main thread alone, while a transform does.
void check_signals() {
    const py::gil_scoped_acquire acquired;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

// Zero is zero and equal is equal, signed or unsigned: the width alone picks the type.
template <class Out, Mode mode, bool with_sites>
void run(const Batch<Out>& batch, py::ssize_t voxel_bytes) {
    switch (voxel_bytes) {
        case 1: return fastloss::distance_transform<std::uint8_t, Out, mode, with_sites>(batch);
        case 2: return fastloss::distance_transform<std::uint16_t, Out, mode, with_sites>(batch);
        case 4: return fastloss::distance_transform<std::uint32_t, Out, mode, with_sites>(batch);
        case 8: return fastloss::distance_transform<std::uint64_t, Out, mode, with_sites>(batch);
        default: throw std::invalid_argument("unsupported item size " + std::to_string(voxel_bytes));
    }
}

template <class Out>
void run(const Batch<Out>& batch, py::ssize_t voxel_bytes, const std::string& mode) {
    if (mode == "sides") return run<Out, Mode::kSides, false>(batch, voxel_bytes);
    if (mode == "labels") return run<Out, Mode::kLabels, false>(batch, voxel_bytes);
    if (mode != "mask") throw std::invalid_argument("unknown mode " + mode);
    return batch.sites ? run<Out, Mode::kMask, true>(batch, voxel_bytes) : run<Out, Mode::kMask, false>(batch, voxel_bytes);
}

template <class Out>
std::pair<py::array, py::object> transform(const py::array& mask, const std::vector<double>& spacing, const std::string& mode,
                                           fastloss::Finish finish, bool indices, int threads) {
    const char kind = mask.dtype().kind();
    if (kind != 'b' && kind != 'i' && kind != 'u') throw py::type_error("mask must hold booleans or integers");
    const std::vector<py::ssize_t> shape(mask.shape(), mask.shape() + mask.ndim());
    py::array_t<Out> out(shape);
    py::object sites = py::none();
    std::int64_t* site_numbers = nullptr;
    if (indices) {
        py::array_t<std::int64_t> array(shape);
        site_numbers = array.mutable_data();
        sites = std::move(array);
    }
    const auto leading = mask.ndim() - static_cast<py::ssize_t>(spacing.size());
    const Batch<Out> batch{static_cast<const char*>(mask.data()), volume_offsets(mask, leading), grid_of(mask, spacing),
                           out.mutable_data(), site_numbers, finish, threads, &check_signals};
    const py::ssize_t voxel_bytes = mask.itemsize();
    {
        const py::gil_scoped_release released;
        run(batch, voxel_bytes, mode);
    }
    return {std::move(out), std::move(sites)};
}

std::pair<py::array, py::object> distance_transform(const py::array& mask, const std::vector<double>& spacing, const std::string& mode,
                                                    bool root, bool negative_inside, bool double_precision, bool indices, int threads) {
    fastloss::Finish finish;
    finish.root = root;
    finish.negative_inside = negative_inside;
    return double_precision ? transform<double>(mask, spacing, mode, finish, indices, threads)
                            : transform<float>(mask, spacing, mode, finish, indices, threads);
}

}  // namespace

PYBIND11_MODULE(_C, module, py::mod_gil_not_used()) {
    module.doc() = "C++ transforms of fastloss; call them through fastloss.distance, which checks the arguments.";
    module.def("distance_transform", &distance_transform, py::arg("mask"), py::arg("spacing"), py::arg("mode"), py::kw_only(),
               py::arg("root"), py::arg("negative_inside"), py::arg("double_precision"), py::arg("indices"), py::arg("threads"));
}
