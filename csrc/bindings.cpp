#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <vector>

#include "edt.hpp"

namespace py = pybind11;

namespace {

std::vector<fastloss::Axis> axes_of(const py::array& mask, const std::vector<double>& spacing) {
    if (spacing.size() != static_cast<std::size_t>(mask.ndim())) throw py::value_error("one spacing per axis is needed");
    std::vector<fastloss::Axis> axes;
    for (py::ssize_t axis = 0; axis < mask.ndim(); ++axis)
        axes.push_back({mask.shape(axis), mask.strides(axis), spacing[static_cast<std::size_t>(axis)]});
    return axes;
}

py::array_t<float> distance_transform(const py::array& mask, const std::vector<double>& spacing, bool root, int threads) {
    const char kind = mask.dtype().kind();
    if (kind != 'b' && kind != 'i' && kind != 'u') throw py::type_error("mask must hold booleans or integers");
    const auto axes = axes_of(mask, spacing);
    const fastloss::MaskView view(static_cast<const char*>(mask.data()), axes);
    py::array_t<float> out(std::vector<py::ssize_t>(mask.shape(), mask.shape() + mask.ndim()));
    float* values = out.mutable_data();
    const py::ssize_t itemsize = mask.itemsize();
    {
        const py::gil_scoped_release released;
        // zero is zero signed or unsigned and in either byte order: the width alone picks the type
        switch (itemsize) {
            case 1: fastloss::distance_transform<std::uint8_t>(view, root, threads, values); break;
            case 2: fastloss::distance_transform<std::uint16_t>(view, root, threads, values); break;
            case 4: fastloss::distance_transform<std::uint32_t>(view, root, threads, values); break;
            case 8: fastloss::distance_transform<std::uint64_t>(view, root, threads, values); break;
            default: throw std::invalid_argument("unsupported item size " + std::to_string(itemsize));
        }
    }
    return out;
}

}  // namespace

PYBIND11_MODULE(_C, module, py::mod_gil_not_used()) {
    module.doc() = "C++ transforms of fastloss; call them through fastloss.distance, which checks the arguments.";
    module.def("distance_transform", &distance_transform, py::arg("mask"), py::arg("spacing"), py::kw_only(),
               py::arg("root"), py::arg("threads"));
}
