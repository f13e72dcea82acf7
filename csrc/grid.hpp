// The voxels of one volume and the distances between them.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

namespace fastloss {

struct Axis {
    std::int64_t length = 1;
    std::ptrdiff_t stride_bytes = 0;
    double spacing = 1.0;
};

// Three axes, those of length 1 dropped as they add nothing to a distance; two axes are the first and the last.
struct Grid {
    std::array<Axis, 3> axes{};

    explicit Grid(const std::vector<Axis>& given) {
        std::vector<Axis> kept;
        for (const Axis& axis : given)
            if (axis.length != 1) kept.push_back(axis);
        if (kept.size() > 3) throw std::invalid_argument("at most 3 axes");
        if (kept.size() == 2) kept.insert(kept.begin() + 1, Axis{});
        std::copy(kept.begin(), kept.end(), axes.begin());
        for (const Axis& axis : axes)
            if (axis.length >= std::numeric_limits<std::int32_t>::max()) throw std::invalid_argument("axis too long");
    }

    std::int64_t plane_size() const { return axes[1].length * axes[2].length; }
    std::int64_t size() const { return axes[0].length * plane_size(); }

    // Byte offset of the voxel that is number `flat` in C order.
    std::ptrdiff_t offset(std::int64_t flat) const {
        const std::int64_t k = flat % axes[2].length, row = flat / axes[2].length;
        return row / axes[1].length * axes[0].stride_bytes + row % axes[1].length * axes[1].stride_bytes +
               k * axes[2].stride_bytes;
    }
};

// Spacings as whole multiples of a unit, where they are: squared distances are then integers, and exact.
struct Metric {
    bool whole = false;
    double unit = 1.0;                        // mm, where whole
    std::array<std::int64_t, 3> multiple{};   // of the unit, where whole
    double greatest_square = 0.0;             // in square units, between any two voxels

    explicit Metric(const Grid& grid) {
        double least = std::numeric_limits<double>::infinity();
        for (const Axis& axis : grid.axes)
            if (axis.length > 1) least = std::min(least, axis.spacing);
        for (int parts = 1; parts <= kMostParts && !whole; ++parts) whole = measure(grid, least / parts);
        whole = whole && unit > 1e-100 && unit < 1e100;  // its square must stay a normal number
    }

private:
    static constexpr int kMostParts = 64;
    static constexpr double kRounding = 4 * std::numeric_limits<double>::epsilon();

    bool measure(const Grid& grid, double candidate) {
        greatest_square = 0.0;
        for (std::size_t a = 0; a < 3; ++a) {
            if (grid.axes[a].length <= 1) continue;
            const double ratio = grid.axes[a].spacing / candidate, nearest = std::round(ratio);
            if (!(nearest < 4096.0) || std::abs(ratio - nearest) > kRounding * nearest) return false;
            multiple[a] = static_cast<std::int64_t>(nearest);
            const double extent = nearest * static_cast<double>(grid.axes[a].length - 1);
            greatest_square += extent * extent;
        }
        unit = candidate;
        return true;
    }
};

}  // namespace fastloss
