// What is the same for all volumes of a call: the number types that will do, and the planes a volume is cut into.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "checkpoint.hpp"
#include "grid.hpp"
#include "plane.hpp"
#include "squares.hpp"
#include "tiles.hpp"

namespace fastloss {

template <class Out>
struct Batch {
    const char* mask;
    std::vector<std::ptrdiff_t> volumes;  // byte offsets of their first voxels
    Grid grid;                            // of each
    Out* out;                             // [volumes, *grid] in C order
    std::int64_t* sites;                  // like out, or null: C-order number of the nearest site in its volume
    Finish finish;
    int threads;
    Checkpoint::Check check = nullptr;  // called now and then; throws to end the transform

    const char* mask_of(std::int64_t volume) const { return mask + volumes[static_cast<std::size_t>(volume)]; }
    Out* out_of(std::int64_t volume) const { return out + volume * grid.size(); }
};

struct Plan {
    PlaneShape shape{};
    std::int64_t planes = 0;
    std::optional<Squares<std::uint16_t>> narrow;  // may do, for planes without long distances
    std::optional<Squares<std::int32_t>> whole;
    std::optional<Squares<double>> general;  // where there is no whole

    // `label_bytes` is 0 where labels are not compared.
    Plan(const Grid& grid, int label_bytes) {
        const auto [planes_, rows, columns] = lengths(grid);
        if (rows > 1)
            shape = {rows, columns, true, true};
        else if (columns > 1)
            shape = {std::min(planes_, kRowsTogether), columns, false, true};
        else
            shape = {1, std::min(planes_, kColumnsTogether), false, false};
        planes = (grid.size() + shape.rows * shape.columns - 1) / (shape.rows * shape.columns);
        choose_numbers(grid, label_bytes);
    }

    // Plane `number` of a volume.
    template <class Out>
    Plane<Out> plane(const Batch<Out>& batch, std::int64_t volume, std::int64_t number) const {
        const std::int64_t size = shape.rows * shape.columns, first = number * size;
        const std::int64_t left = std::min(size, batch.grid.size() - first);
        const std::int64_t columns = shape.along_columns ? shape.columns : left;
        return {batch.grid, batch.mask_of(volume), batch.out_of(volume), first, left / columns, columns};
    }

private:
    static constexpr std::int64_t kRowsTogether = 64, kColumnsTogether = 4096;

    static std::array<std::int64_t, 3> lengths(const Grid& grid) {
        return {grid.axes[0].length, grid.axes[1].length, grid.axes[2].length};
    }

    void choose_numbers(const Grid& grid, int label_bytes) {
        const Metric metric(grid);
        if (!metric.whole || metric.greatest_square >= static_cast<double>(kFar<std::int32_t>) || label_bytes > 4) {
            general.emplace(grid, metric);
            return;
        }
        whole.emplace(grid, metric);
        constexpr std::int64_t kLargestStep = 181 / (kReach + 1);
        // who has looked outwards in vain must know that from the squares, which beyond the range are all alike
        static_assert(kLargestStep * kLargestStep * (kReach + 1) * (kReach + 1) < kFar<std::uint16_t>);
        // squares below 2^30 are those of axes of up to 2^15 voxels, which 16 bits number
        bool fits = label_bytes <= 2 && shape.along_columns;
        for (const std::int64_t multiple : metric.multiple) fits = fits && multiple <= kLargestStep;
        if (fits) narrow.emplace(grid, metric);
    }
};

}  // namespace fastloss
