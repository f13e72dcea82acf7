// Squared distances along each axis as numbers of type T: whole square units, or mm² in float64.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "grid.hpp"
#include "minplus.hpp"

namespace fastloss {

template <class T>
struct Squares {
    std::array<std::vector<T>, 3> of_steps;  // of_steps[axis][k]; kFar where beyond T
    std::array<double, 3> step{};
    double square_unit = 1.0;  // mm² a unit of T

    Squares(const Grid& grid, const Metric& metric) {
        constexpr bool kWhole = !std::is_floating_point_v<T>;
        if (kWhole) square_unit = metric.unit * metric.unit;
        for (std::size_t axis = 0; axis < 3; ++axis) {
            step[axis] = kWhole ? static_cast<double>(metric.multiple[axis]) : grid.axes[axis].spacing;
            const std::int64_t count = std::max(grid.axes[axis].length, kReach + 2);
            of_steps[axis].resize(static_cast<std::size_t>(count));
            for (std::int64_t steps = 0; steps < count; ++steps) {
                const double distance = static_cast<double>(steps) * step[axis];
                of_steps[axis][static_cast<std::size_t>(steps)] = limited(distance * distance);
            }
        }
    }

private:
    static T limited(double square) {
        return square < static_cast<double>(kFar<T>) ? static_cast<T>(square) : kFar<T>;
    }
};

}  // namespace fastloss
