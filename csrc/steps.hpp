// Axis 0: whole steps to the nearest site of the same column, by a scan there and back.
//
// Between the passes the output's own memory holds them, so that no second volume is needed: a slot is as wide as
// an output number, its low 31 bits are the steps, and the top bit is the mask's where both sides are measured.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "grid.hpp"
#include "lanes.hpp"

namespace fastloss {

enum class Mode {
    kMask,    // from nonzero voxels to the nearest zero voxel
    kSides,   // from every voxel to the nearest on the other side of the mask
    kLabels,  // from every voxel to the nearest with another label
};

constexpr std::uint32_t kNoSite = 0x7fffffffu;
constexpr std::uint32_t kInside = 0x80000000u;

template <class Out>
FASTLOSS_INLINE std::uint32_t load_slot(const Out* slot) {
    std::uint32_t value;
    std::memcpy(&value, slot, sizeof value);
    return value;
}

template <class Out>
FASTLOSS_INLINE void store_slot(Out* slot, std::uint32_t value) {
    std::memcpy(slot, &value, sizeof value);
}

FASTLOSS_INLINE std::uint32_t one_further(std::uint32_t steps) { return steps + (steps != kNoSite); }

template <class T>
FASTLOSS_INLINE T voxel_at(const char* address) {
    T voxel;  // copied because a view may be unaligned
    std::memcpy(&voxel, address, sizeof voxel);
    return voxel;
}

// A block of columns (begin .. end - 1 of axis 2, one j) of one volume; `mask` and `out` are the volume's.
template <class Out>
struct Columns {
    const Grid& grid;
    const char* mask;
    Out* out;
    std::int64_t j, begin, end;
};

template <class T, class Out, Mode mode>
struct ScanSteps {
    template <int>
    static FASTLOSS_INLINE int run(const Columns<Out>& columns) {
        // a constant stride lets the compiler use vectors
        if (columns.grid.axes[2].stride_bytes == static_cast<std::ptrdiff_t>(sizeof(T)))
            scan(columns, sizeof(T));
        else
            scan(columns, columns.grid.axes[2].stride_bytes);
        return 0;
    }

private:
    static FASTLOSS_INLINE void scan(const Columns<Out>& columns, std::ptrdiff_t stride) {
        const std::int64_t planes = columns.grid.axes[0].length, width = columns.end - columns.begin;
        const std::int64_t pitch = columns.grid.plane_size();
        const std::ptrdiff_t plane_stride = columns.grid.axes[0].stride_bytes;
        const char* first = columns.mask + columns.j * columns.grid.axes[1].stride_bytes + columns.begin * stride;
        Out* out = columns.out + columns.j * columns.grid.axes[2].length + columns.begin;
        for (std::int64_t k = 0; k < width; ++k) store_slot(out + k, start(voxel_at<T>(first + k * stride)));
        for (std::int64_t i = 1; i < planes; ++i) {
            const char* voxels = first + i * plane_stride;
            for (std::int64_t k = 0; k < width; ++k) {
                const T voxel = voxel_at<T>(voxels + k * stride);
                const T before = mode == Mode::kLabels ? voxel_at<T>(voxels + k * stride - plane_stride) : T{};
                store_slot(out + i * pitch + k, forward(load_slot(out + (i - 1) * pitch + k), voxel, before));
            }
        }
        for (std::int64_t i = planes - 2; i >= 0; --i) {
            const char* voxels = first + i * plane_stride;
            for (std::int64_t k = 0; k < width; ++k) {
                const T voxel = mode == Mode::kLabels ? voxel_at<T>(voxels + k * stride) : T{};
                const T after = mode == Mode::kLabels ? voxel_at<T>(voxels + k * stride + plane_stride) : T{};
                Out* slot = out + i * pitch + k;
                store_slot(slot, backward(load_slot(slot), load_slot(slot + pitch), voxel == after));
            }
        }
    }

    static FASTLOSS_INLINE std::uint32_t start(T voxel) {
        if constexpr (mode == Mode::kMask) return voxel != 0 ? kNoSite : 0;
        if constexpr (mode == Mode::kSides) return kNoSite | (voxel != 0 ? kInside : 0);
        return kNoSite;
    }

    static FASTLOSS_INLINE std::uint32_t forward(std::uint32_t slot_before, T voxel, T before) {
        if constexpr (mode == Mode::kMask) return voxel != 0 ? one_further(slot_before) : 0;
        if constexpr (mode == Mode::kLabels) return voxel == before ? one_further(slot_before) : 1;
        const std::uint32_t side = voxel != 0 ? kInside : 0;
        return side | (((slot_before ^ side) & kInside) ? 1 : one_further(slot_before & kNoSite));
    }

    static FASTLOSS_INLINE std::uint32_t backward(std::uint32_t slot, std::uint32_t slot_after, bool same_label) {
        if constexpr (mode == Mode::kMask) return std::min(slot, one_further(slot_after));
        if constexpr (mode == Mode::kLabels) return std::min(slot, same_label ? one_further(slot_after) : 1);
        const bool same = ((slot ^ slot_after) & kInside) == 0;
        const std::uint32_t steps = slot & kNoSite, next = slot_after & kNoSite;
        return (slot & kInside) | std::min(steps, same ? one_further(next) : 1);
    }
};

}  // namespace fastloss
