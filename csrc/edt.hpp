// Exact Euclidean distance transform of a mask with up to three axes.
//
// Axis 0 is a two-way scan for the nearest zero voxel; the axes after it are lower envelopes of parabolas
// (Felzenszwalb & Huttenlocher 2012), bounded at integers as Meijster, Roerdink & Hesselink (2000) do.
// Candidates are compared by the very float64 sums (a0 + a1) + a2, a_i = (steps_i * spacing_i)^2, that a brute
// force would form, so the result is that minimum bit for bit, rounded once to float32.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <vector>

namespace fastloss {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr std::uint32_t kNoSite = std::numeric_limits<std::uint32_t>::max();

struct Axis {
    std::int64_t length = 1;
    std::ptrdiff_t stride_bytes = 0;
    double spacing = 1.0;
};

// A mask read in place through its strides; axes of length 1 add nothing to a distance and are dropped.
struct MaskView {
    const char* data = nullptr;
    std::array<Axis, 3> axes{};

    MaskView(const char* mask, const std::vector<Axis>& given) : data(mask) {
        std::vector<Axis> kept;
        for (const Axis& axis : given)
            if (axis.length != 1) kept.push_back(axis);
        if (kept.size() > 3) throw std::invalid_argument("at most 3 axes");
        if (kept.size() == 2) kept.insert(kept.begin() + 1, Axis{});
        std::copy(kept.begin(), kept.end(), axes.begin());
        if (axes[0].length >= static_cast<std::int64_t>(kNoSite)) throw std::invalid_argument("axis 0 is too long");
    }

    std::int64_t plane_size() const { return axes[1].length * axes[2].length; }
    std::int64_t size() const { return axes[0].length * plane_size(); }
};

// Between the passes the output's own four bytes hold the whole steps along axis 0: no second volume is needed.
inline std::uint32_t load_steps(const float* slot) {
    std::uint32_t steps;
    std::memcpy(&steps, slot, sizeof steps);
    return steps;
}

inline void store_steps(float* slot, std::uint32_t steps) { std::memcpy(slot, &steps, sizeof steps); }

inline std::uint32_t one_further(std::uint32_t steps) { return steps + (steps != kNoSite); }

template <class T>
inline bool is_foreground(const char* voxel) {
    T value;  // copied because a view may be unaligned
    std::memcpy(&value, voxel, sizeof value);
    return value != 0;
}

// Calls work(worker, begin, end) on blocks of [0, count) until none is left. Threads live for this call only,
// so a forked child finds no dead pool; where the system refuses a thread the others do its share.
template <class Work>
void parallel_blocks(int workers, std::int64_t count, std::int64_t block, const Work& work) {
    std::atomic<std::int64_t> next{0};
    const auto run = [&](int worker) {
        for (std::int64_t begin; (begin = next.fetch_add(block)) < count;)
            work(worker, begin, std::min(begin + block, count));
    };
    std::vector<std::thread> threads;
    const std::int64_t blocks = (count + block - 1) / block;
    threads.reserve(static_cast<std::size_t>(workers));
    try {
        for (int worker = 1; worker < std::min<std::int64_t>(workers, blocks); ++worker) threads.emplace_back(run, worker);
    } catch (const std::system_error&) {
    }
    run(0);
    for (std::thread& thread : threads) thread.join();
}

// Steps along axis 0 to the nearest zero voxel, for the columns (j, begin .. end - 1) of all planes.
template <class T>
void scan_axis0(const MaskView& mask, std::int64_t j, std::int64_t begin, std::int64_t end, float* out) {
    const auto& [planes, rows, columns] = mask.axes;
    const std::int64_t plane_size = mask.plane_size();
    const bool dense = columns.stride_bytes == static_cast<std::ptrdiff_t>(sizeof(T));
    for (std::int64_t i = 0; i < planes.length; ++i) {
        const char* voxels = mask.data + i * planes.stride_bytes + j * rows.stride_bytes;
        float* row = out + i * plane_size + j * columns.length;
        const auto step = [&](std::int64_t k, std::ptrdiff_t stride) {
            const std::uint32_t before = i > 0 ? one_further(load_steps(row + k - plane_size)) : kNoSite;
            store_steps(row + k, is_foreground<T>(voxels + k * stride) ? before : 0);
        };
        if (dense)  // a constant stride lets the compiler use vectors
            for (std::int64_t k = begin; k < end; ++k) step(k, sizeof(T));
        else
            for (std::int64_t k = begin; k < end; ++k) step(k, columns.stride_bytes);
    }
    for (std::int64_t i = planes.length - 2; i >= 0; --i) {
        float* row = out + i * plane_size + j * columns.length;
        for (std::int64_t k = begin; k < end; ++k)
            store_steps(row + k, std::min(load_steps(row + k), one_further(load_steps(row + k + plane_size))));
    }
}

// out[x] = min over v of f[v] + ((x - v) * spacing)^2 along one line, in place.
class LowerEnvelope {
public:
    explicit LowerEnvelope(const Axis& axis)
        : length_(axis.length), half_inverse_square_(0.5 / (axis.spacing * axis.spacing)) {
        const auto n = static_cast<std::size_t>(length_);
        square_.resize(n);
        parabolas_.resize(n);
        for (std::size_t steps = 0; steps < n; ++steps) {
            const double distance = static_cast<double>(steps) * axis.spacing;
            square_[steps] = distance * distance;
        }
    }

    void transform(double* f) {
        if (std::all_of(f, f + length_, [](double value) { return value == 0.0; })) return;
        std::ptrdiff_t top = build(f);
        if (top < 0) return;  // no site on this line: it stays +inf
        for (std::int64_t x = length_ - 1; x >= 0; --x) {
            const Parabola& lowest = parabolas_[static_cast<std::size_t>(top)];
            f[x] = at(lowest, x);
            if (x == lowest.start) --top;
        }
    }

private:
    struct Parabola {
        std::int64_t site;   // where its minimum lies
        std::int64_t start;  // the first x at which it is the lowest
        double height;
    };

    double at(const Parabola& parabola, std::int64_t x) const {
        const std::int64_t steps = x - parabola.site;
        return parabola.height + square_[static_cast<std::size_t>(steps < 0 ? -steps : steps)];
    }

    std::ptrdiff_t build(const double* f) {
        std::ptrdiff_t top = -1;
        for (std::int64_t x = 0; x < length_; ++x) {
            if (f[x] == kInf) continue;
            Parabola next{x, 0, f[x]};
            while (top >= 0) {
                const Parabola& last = parabolas_[static_cast<std::size_t>(top)];
                if (at(last, last.start) <= at(next, last.start)) {
                    next.start = first_below(last, next);
                    break;
                }
                --top;
            }
            if (next.start < length_) parabolas_[static_cast<std::size_t>(++top)] = next;
        }
        return top;
    }

    // First x at which `next` is below `last`: the crossing in floating point, then set right by the values themselves.
    std::int64_t first_below(const Parabola& last, const Parabola& next) const {
        const double middle = 0.5 * static_cast<double>(last.site + next.site);
        const double apart = static_cast<double>(next.site - last.site);
        const double crossing = middle + (next.height - last.height) * half_inverse_square_ / apart;
        const double final_x = static_cast<double>(length_ - 1);
        std::int64_t x = last.start;  // also where the crossing is NaN
        if (crossing > static_cast<double>(last.start)) x = static_cast<std::int64_t>(std::min(crossing, final_x));
        while (x > last.start && at(next, x) < at(last, x)) --x;
        while (x < length_ && at(last, x) <= at(next, x)) ++x;
        return x;
    }

    std::int64_t length_;
    double half_inverse_square_;
    std::vector<double> square_;
    std::vector<Parabola> parabolas_;
};

// What one worker needs to take a plane from steps along axis 0 to distances.
class PlaneTransform {
public:
    PlaneTransform(const MaskView& mask, bool root)
        : axis0_spacing_(mask.axes[0].spacing), rows_(mask.axes[1].length), columns_(mask.axes[2].length), root_(root),
          along_rows_(mask.axes[1]), along_columns_(mask.axes[2]), plane_(static_cast<std::size_t>(mask.plane_size())),
          lines_(static_cast<std::size_t>(rows_ * kLines)) {}

    void run(float* out) {
        const std::int64_t size = rows_ * columns_;
        for (std::int64_t k = 0; k < size; ++k) {
            const std::uint32_t steps = load_steps(out + k);
            const double distance = static_cast<double>(steps) * axis0_spacing_;
            plane_[static_cast<std::size_t>(k)] = steps == kNoSite ? kInf : distance * distance;
        }
        if (rows_ > 1)
            for (std::int64_t k = 0; k < columns_; k += kLines) transform_columns(k, std::min(kLines, columns_ - k));
        if (columns_ > 1)
            for (std::int64_t j = 0; j < rows_; ++j) along_columns_.transform(plane_.data() + j * columns_);
        for (std::int64_t k = 0; k < size; ++k) {
            const double square = plane_[static_cast<std::size_t>(k)];
            out[k] = static_cast<float>(root_ ? std::sqrt(square) : square);
        }
    }

private:
    static constexpr std::int64_t kLines = 8;  // float64 columns of one cache line

    void transform_columns(std::int64_t first, std::int64_t count) {
        double* corner = plane_.data() + first;
        for (std::int64_t j = 0; j < rows_; ++j)
            for (std::int64_t k = 0; k < count; ++k) lines_[static_cast<std::size_t>(k * rows_ + j)] = corner[j * columns_ + k];
        for (std::int64_t k = 0; k < count; ++k) along_rows_.transform(lines_.data() + k * rows_);
        for (std::int64_t j = 0; j < rows_; ++j)
            for (std::int64_t k = 0; k < count; ++k) corner[j * columns_ + k] = lines_[static_cast<std::size_t>(k * rows_ + j)];
    }

    double axis0_spacing_;
    std::int64_t rows_, columns_;
    bool root_;
    LowerEnvelope along_rows_, along_columns_;
    std::vector<double> plane_, lines_;
};

// Squared distance (distance where `root`) of every nonzero voxel to the nearest zero voxel, +inf without one;
// out is C-contiguous in the mask's shape.
template <class T>
void distance_transform(const MaskView& mask, bool root, int threads, float* out) {
    constexpr std::int64_t kVoxelsPerWorker = 1 << 15;  // below this a thread costs more than it saves
    const auto& [planes, rows, columns] = mask.axes;
    if (mask.size() == 0) return;
    const std::int64_t useful = std::max<std::int64_t>(1, mask.size() / kVoxelsPerWorker);
    const int workers = static_cast<int>(std::clamp<std::int64_t>(threads, 1, useful));

    if (rows.length > 1)
        parallel_blocks(workers, rows.length, 1, [&](int, std::int64_t begin, std::int64_t) {
            scan_axis0<T>(mask, begin, 0, mask.axes[2].length, out);
        });
    else
        parallel_blocks(workers, columns.length, 256, [&](int, std::int64_t begin, std::int64_t end) {
            scan_axis0<T>(mask, 0, begin, end, out);
        });

    // two planes a worker at least, so that their float64 scratch stays within one float32 volume
    const int plane_workers = static_cast<int>(std::clamp<std::int64_t>(planes.length / 2, 1, workers));
    std::vector<PlaneTransform> scratch(static_cast<std::size_t>(plane_workers), PlaneTransform(mask, root));
    const std::int64_t plane_size = mask.plane_size();
    const std::int64_t block = std::max<std::int64_t>(1, 4096 / plane_size);
    parallel_blocks(plane_workers, planes.length, block, [&](int worker, std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) scratch[static_cast<std::size_t>(worker)].run(out + i * plane_size);
    });
}

}  // namespace fastloss
