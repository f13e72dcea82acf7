// One axis of the transform: out[x] = min over v of cost(v, x) + square[|x - v|], on kLanes lines side by side.
//
// Near sites are found by looking outwards from x until no farther one can win, which is short where distances
// are. What is left is solved by halving: the best v never decreases with x, so that the best of the middle x
// bounds both halves, and where the lanes' best v lie too far apart for that, each lane is solved alone. Any way
// the result is the minimum itself: no candidate that could win is left out.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "dispatch.hpp"
#include "lanes.hpp"
#include "steps.hpp"

namespace fastloss {

constexpr std::int64_t kReach = 8;  // steps looked outwards; as many rows repeat the line's ends before and after it

// No site, or none within the type's range; two of them can be added.
template <class T>
constexpr T kFar = std::numeric_limits<T>::infinity();
template <>
inline constexpr std::uint16_t kFar<std::uint16_t> = 0x7fff;
template <>
inline constexpr std::int32_t kFar<std::int32_t> = 1 << 30;

template <class T>
struct Lines {
    std::int64_t length = 0;
    std::int64_t lanes = kLanes<T>;     // the first so many are lines, the rest zeros
    const T* cost = nullptr;            // row 0 of the line, within its repeated ends
    const LaneInt<T>* label = nullptr;  // alike, for Mode::kLabels
    T* out = nullptr;                   // rows `out_pitch` apart
    LaneInt<T>* best = nullptr;         // the best v, where asked for; rows as in out
    std::int64_t out_pitch = kLanes<T>;
    const T* square = nullptr;          // row k: the square of k steps, for k below max(length, kReach + 2)
    double step = 1.0;                  // length of a step, in roots of the unit of T
    std::int32_t* pending = nullptr;    // room for `length` numbers
};

// What a cost row means to the lanes of x.
template <class T, Mode mode, int Bytes>
struct Center {
    Mask<T, Bytes> key;

    FASTLOSS_INLINE Center(const Lines<T>& lines, std::int64_t x) {
        if constexpr (mode == Mode::kSides) key = is_opposite(load<Bytes>(lines.cost + x * kLanes<T>));
        if constexpr (mode == Mode::kLabels) key = load<Bytes>(lines.label + x * kLanes<T>);
    }

    FASTLOSS_INLINE Row<T, Bytes> cost(const Lines<T>& lines, std::int64_t v) const {
        const Row<T, Bytes> row = load<Bytes>(lines.cost + v * kLanes<T>);
        if constexpr (mode == Mode::kSides) return zero_opposites(opposite_where<T, Bytes>(key, row));
        if constexpr (mode == Mode::kLabels) return keep<T, Bytes>(row, equal(key, load<Bytes>(lines.label + v * kLanes<T>)));
        return row;
    }

    FASTLOSS_INLINE Row<T, Bytes> result(const Row<T, Bytes>& row) const {
        if constexpr (mode == Mode::kSides) return opposite_where<T, Bytes>(key, row);
        return row;
    }
};

template <class T>
struct Outcome {
    T greatest;   // number written; kFar where a line has no site
    bool beyond;  // the type's range, for a line that has a site: the numbers are not to be used
};

template <class T, Mode mode, bool with_best>
struct MinPlus {
    template <int RequestedBytes>
    static FASTLOSS_INLINE Outcome<T> run(const Lines<T>& lines) {
        constexpr int Bytes = kRegister<T, RequestedBytes>;
        Row<T, Bytes> greatest = splat<Bytes>(T{}), least = splat<Bytes>(kFar<T>);
        std::int64_t pending = 0, look_again = 0;
        for (std::int64_t x = 0; x < lines.length; ++x) {
            bool settled;
            const Row<T, Bytes> found = look_outwards<Bytes>(lines, x, x < look_again ? 1 : kReach, settled);
            least = min(least, found);
            if (settled) greatest = max(greatest, found);
            if (!settled && x >= look_again) look_again = x + kLooksSaved;
            lines.pending[pending] = static_cast<std::int32_t>(x);
            pending += !settled;
        }
        if (pending == 0) return {most(greatest), false};
        const Mask<T, Bytes> empty = equal(least, splat<Bytes>(kFar<T>));
        Int filled[kLanes<T>];
        store(filled, equal(empty, splat<Bytes>(Int{})));
        for (std::int64_t lane = lines.lanes; lane < kLanes<T>; ++lane) filled[lane] = 0;
        if (!any(load<Bytes>(filled))) return {kFar<T>, false};  // no site on any of the lines
        const bool beyond = !halve<Bytes>(lines, pending, filled, greatest);
        return {any(empty) ? kFar<T> : most(greatest), beyond};
    }

private:
    using Int = LaneInt<T>;
    static constexpr std::int64_t kLooksSaved = 4;  // where one look failed, the next x would not see much more
    static constexpr std::int64_t kFew = 8;         // candidates that cost less than finding out which matter
    static constexpr std::int64_t kPatience = 16;   // rows a voxel: about what lanes on their own take at most
    static constexpr int kAllLanes = -1;

    template <int Bytes>
    static FASTLOSS_INLINE T most(const Row<T, Bytes>& row) {
        T lanes[kLanes<T>], greatest{};
        store(lanes, row);
        for (const T lane : lanes) greatest = lane > greatest ? lane : greatest;
        return greatest;
    }

    template <int Bytes>
    static FASTLOSS_INLINE void write(const Lines<T>& lines, std::int64_t x, const Row<T, Bytes>& row, const Row<Int, Bytes>& best) {
        store(lines.out + x * lines.out_pitch, row);
        if constexpr (with_best) store(lines.best + x * lines.out_pitch, best);
    }

    template <int Bytes>
    static FASTLOSS_INLINE void improve(Row<T, Bytes>& least, Row<Int, Bytes>& best, const Row<T, Bytes>& candidate, const Row<Int, Bytes>& place) {
        const Mask<T, Bytes> better = greater(least, candidate);
        best = select<Int, Bytes>(better, place, best);
        least = min(least, candidate);
    }

    template <int Bytes>
    static FASTLOSS_INLINE Row<T, Bytes> look_outwards(const Lines<T>& lines, std::int64_t x, std::int64_t reach, bool& settled) {
        const Center<T, mode, Bytes> center(lines, x);
        Row<T, Bytes> least = center.cost(lines, x);
        Row<Int, Bytes> best = splat<Bytes>(static_cast<Int>(x));
        settled = true;
        for (std::int64_t k = 1; any(greater(least, load<Bytes>(lines.square + k * kLanes<T>))); ++k) {
            if (k > reach) {
                settled = false;
                break;
            }
            const Row<T, Bytes> square = load<Bytes>(lines.square + k * kLanes<T>);
            const Row<T, Bytes> before = center.cost(lines, x - k), after = center.cost(lines, x + k);
            if constexpr (with_best) {
                improve<Bytes>(least, best, before + square, splat<Bytes>(static_cast<Int>(x - k)));
                improve<Bytes>(least, best, after + square, splat<Bytes>(static_cast<Int>(x + k)));
            } else {
                least = min(least, min(before, after) + square);
            }
        }
        write<Bytes>(lines, x, center.result(least), best);
        return least;
    }

    // Solves the x that look_outwards left; within which [low, high] their best v lie is known from those before.
    // `filled` are the lanes that have a site. False where one has no number within the range of a T that is whole.
    template <int Bytes>
    static FASTLOSS_INLINE bool halve(const Lines<T>& lines, std::int64_t pending, const Int* filled, Row<T, Bytes>& greatest) {
        struct Part {
            std::int64_t first, last, low, high;
            int lane;
        };
        Part waiting[160 + kLanes<T>];  // two a level, at most 31 levels, of all lanes and then of one
        int count = 0;
        waiting[count++] = {0, pending - 1, 0, lines.length - 1, kAllLanes};
        std::int64_t patience = kPatience * lines.lanes * lines.length;
        while (count > 0) {
            const Part part = waiting[--count];
            if (part.lane == kAllLanes && patience < 0) {
                for (int lane = 0; lane < kLanes<T>; ++lane)
                    if (filled[lane]) waiting[count++] = {part.first, part.last, part.low, part.high, lane};
                continue;
            }
            const Mask<T, Bytes> lanes = part.lane == kAllLanes ? load<Bytes>(filled) : only<Bytes>(part.lane);
            Row<Int, Bytes> best;
            if (part.first == part.last || part.high - part.low < kFew) {
                for (std::int64_t i = part.first; i <= part.last; ++i)
                    greatest = max(greatest, search<Bytes, with_best>(lines, lines.pending[i], part.low, part.high, lanes, best, patience));
                continue;
            }
            const std::int64_t middle = (part.first + part.last) / 2;
            greatest = max(greatest, search<Bytes, true>(lines, lines.pending[middle], part.low, part.high, lanes, best, patience));
            if (beyond<Bytes>(greatest)) return false;
            std::int64_t low = part.low, high = part.high;
            bound<Bytes>(best, lanes, low, high);
            if (part.first < middle) waiting[count++] = {part.first, middle - 1, part.low, high, part.lane};
            if (middle < part.last) waiting[count++] = {middle + 1, part.last, low, part.high, part.lane};
        }
        return !beyond<Bytes>(greatest);
    }

    template <int Bytes>
    static FASTLOSS_INLINE Mask<T, Bytes> only(int lane) {
        Int mask[kLanes<T>] = {};
        mask[lane] = -1;
        return load<Bytes>(mask);
    }

    // float64 has no range to leave: its numbers are what they are, infinite ones as well.
    template <int Bytes>
    static FASTLOSS_INLINE bool beyond(const Row<T, Bytes>& greatest) {
        if constexpr (std::is_floating_point_v<T>) return false;
        return any(greater(greatest, splat<Bytes>(static_cast<T>(kFar<T> - 1))));
    }

    // Writes the least over v in [low, high] for the given lanes of x, and returns it, with zeros in the others; where
    // `track`, with the v it is of. Takes the rows it looked at off `patience`.
    template <int Bytes, bool track>
    static FASTLOSS_INLINE Row<T, Bytes> search(const Lines<T>& lines, std::int64_t x, std::int64_t low, std::int64_t high,
                                                const Mask<T, Bytes>& lanes, Row<Int, Bytes>& best, std::int64_t& patience) {
        const Center<T, mode, Bytes> center(lines, x);
        Row<T, Bytes> least = center.cost(lines, x);
        if (high - low > 2 * kFew) {
            const std::int64_t reach = steps_within(lines, most(keep<T, Bytes>(least, lanes)));
            low = std::max(low, x - reach);
            high = std::min(high, x + reach);
        }
        patience -= high - low + 1;
        Row<Int, Bytes> place, one;
        if constexpr (track) {
            best = splat<Bytes>(static_cast<Int>(x));
            place = splat<Bytes>(static_cast<Int>(low));
            one = splat<Bytes>(Int{1});
        }
        for (std::int64_t v = low; v <= high; ++v) {
            const Row<T, Bytes> square = load<Bytes>(lines.square + (v < x ? x - v : v - x) * kLanes<T>);
            const Row<T, Bytes> candidate = center.cost(lines, v) + square;
            if constexpr (track) {
                improve<Bytes>(least, best, candidate, place);
                place = place + one;
            } else {
                least = min(least, candidate);
            }
        }
        T* out = lines.out + x * lines.out_pitch;
        store(out, select<T, Bytes>(lanes, center.result(least), load<Bytes>(out)));
        if constexpr (with_best) {
            Int* to = lines.best + x * lines.out_pitch;
            store(to, select<Int, Bytes>(lanes, best, load<Bytes>(to)));
        }
        return keep<T, Bytes>(least, lanes);
    }

    static FASTLOSS_INLINE std::int64_t steps_within(const Lines<T>& lines, T square) {
        if (!(square < kFar<T>)) return lines.length;
        const double steps = std::sqrt(static_cast<double>(square)) / lines.step;
        return steps < static_cast<double>(lines.length) ? static_cast<std::int64_t>(steps) + 1 : lines.length;
    }

    template <int Bytes>
    static FASTLOSS_INLINE void bound(const Row<Int, Bytes>& best, const Mask<T, Bytes>& lanes, std::int64_t& low, std::int64_t& high) {
        // next to a change of side or label the best v of two neighbours may be each other
        constexpr std::int64_t kOverlap = mode == Mode::kMask ? 0 : 1;
        Int lows[kLanes<T>], highs[kLanes<T>];
        store(lows, select<Int, Bytes>(lanes, best, splat<Bytes>(static_cast<Int>(high))));
        store(highs, select<Int, Bytes>(lanes, best, splat<Bytes>(static_cast<Int>(low))));
        Int least = lows[0], greatest = highs[0];
        for (int lane = 1; lane < kLanes<T>; ++lane) {
            least = lows[lane] < least ? lows[lane] : least;
            greatest = highs[lane] > greatest ? highs[lane] : greatest;
        }
        const std::int64_t first = low, last = high;
        low = std::clamp<std::int64_t>(least - kOverlap, first, last);
        high = std::clamp<std::int64_t>(greatest + kOverlap, first, last);
    }
};

}  // namespace fastloss
