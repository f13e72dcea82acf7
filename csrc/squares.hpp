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
    std::array<std::vector<T>, 3> rows;  // row k of an axis: the square of k steps in all lanes, kFar where beyond T
    std::array<double, 3> step{};
    double square_unit = 1.0;  // mm² a unit of T

    Squares(const Grid& grid, const Metric& metric) {
        constexpr bool kWhole = !std::is_floating_point_v<T>;
        if (kWhole) square_unit = metric.unit * metric.unit;
        for (std::size_t axis = 0; axis < 3; ++axis) {
            step[axis] = kWhole ? static_cast<double>(metric.multiple[axis]) : grid.axes[axis].spacing;
            const std::int64_t count = std::max(grid.axes[axis].length, kReach + 2);
            if (axis > 0) rows[axis].reserve(static_cast<std::size_t>(count * kLanes<T>));
            for (std::int64_t steps = 0; axis > 0 && steps < count; ++steps) {
                const double distance = static_cast<double>(steps) * step[axis];
                rows[axis].insert(rows[axis].end(), kLanes<T>, limited(distance * distance));
            }
        }
    }

private:
    static T limited(double square) {
        return square < static_cast<double>(kFar<T>) ? static_cast<T>(square) : kFar<T>;
    }
};

}  // namespace fastloss
