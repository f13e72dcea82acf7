// Exact Euclidean distance transforms of masks and labels with up to three axes, of many volumes at once.
//
// Axis 0 is a scan (steps.hpp); the axes after it are solved plane by plane (plane.hpp, minplus.hpp): in 16-bit
// integers where the squared distances of the plane allow it, in 32-bit integers where the spacings do, and in
// float64 otherwise. Whole numbers are exact; float64 forms the sums (a0 + a1) + a2, a_i = (steps_i * spacing_i)^2,
// that a brute force would form. The result is rounded once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <vector>

#include "checkpoint.hpp"
#include "grid.hpp"
#include "parallel.hpp"
#include "planner.hpp"
#include "steps.hpp"
#include "worker.hpp"

namespace fastloss {

// Columns of one j that a scan takes together: they stay in the cache on the way there and back.
inline std::int64_t scan_width(const Grid& grid) {
    constexpr std::int64_t kSlots = 1 << 16, kLeast = 64;
    return std::max(kLeast, kSlots / std::max<std::int64_t>(grid.axes[0].length, 1));
}

template <class Voxel, class Out, Mode mode>
void scan_volumes(const Batch<Out>& batch, std::int64_t first, std::int64_t count, int workers, Checkpoint& checkpoint) {
    const std::int64_t columns = batch.grid.axes[2].length, width = scan_width(batch.grid);
    const std::int64_t blocks = (columns + width - 1) / width, per_volume = batch.grid.axes[1].length * blocks;
    parallel_for(workers, count * per_volume, [&](int, std::int64_t item) {
        checkpoint.pass();
        const std::int64_t volume = first + item / per_volume, row = item % per_volume / blocks;
        const std::int64_t begin = item % blocks * width;
        const Columns<Out> block{batch.grid, batch.mask_of(volume), batch.out_of(volume), row, begin, std::min(begin + width, columns)};
        dispatch<ScanSteps<Voxel, Out, mode>>(block);
    });
}

// Fills batch.out, and batch.sites with `with_sites`. A volume without any site becomes +inf and -1 in Mode::kMask,
// and one without another side or label zero.
template <class Voxel, class Out, Mode mode, bool with_sites>
void distance_transform(const Batch<Out>& batch) {
    constexpr std::int64_t kVoxelsPerThread = 1 << 15;  // below this a thread costs more than it saves
    constexpr std::int64_t kVoxelsTogether = 1 << 21;   // volumes in work at a time, for their slots to stay cached
    const std::int64_t size = batch.grid.size(), volumes = static_cast<std::int64_t>(batch.volumes.size());
    if (size * volumes == 0) return;
    const Plan plan(batch.grid, mode == Mode::kLabels ? static_cast<int>(sizeof(Voxel)) : 0);
    const std::int64_t together = std::clamp<std::int64_t>(kVoxelsTogether / size, 1, volumes);
    const auto limited = [&](std::int64_t most) {
        return static_cast<int>(std::clamp<std::int64_t>(std::min<std::int64_t>(most, batch.threads), 1, batch.threads));
    };
    const int workers = limited(size * together / kVoxelsPerThread);
    // two planes a worker, so that their scratch memory stays within one float32 volume
    const int plane_workers = std::min(workers, limited(plan.planes * together / 2));
    Checkpoint checkpoint(batch.check);
    std::deque<Worker<Voxel, Out, mode, with_sites>> scratch;
    for (int worker = 0; worker < plane_workers; ++worker) scratch.emplace_back(batch, plan, checkpoint);
    for (std::int64_t first = 0; first < volumes; first += together) {
        const std::int64_t count = std::min(together, volumes - first);
        scan_volumes<Voxel, Out, mode>(batch, first, count, workers, checkpoint);
        parallel_for(plane_workers, count * plan.planes, [&](int worker, std::int64_t item) {
            scratch[static_cast<std::size_t>(worker)].run(first + item / plan.planes, item % plan.planes);
        });
    }
}

}  // namespace fastloss
