// Loops that bring numbers into the shape the kernel wants, and the results out of it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "dispatch.hpp"
#include "minplus.hpp"
#include "steps.hpp"

namespace fastloss {

// Which bits are set in every slot of a plane, and which in one at least.
struct SlotBits {
    std::uint32_t in_all, in_any;
};

// The slots of a plane (see steps.hpp) as squared distances along axis 0, in rows `pitch` apart.
template <class T, class Out, Mode mode>
struct SquareSteps {
    template <int>
    static FASTLOSS_INLINE SlotBits run(const Out* slots, std::int64_t rows, std::int64_t columns, double step, T* to, std::int64_t pitch) {
        SlotBits found{~std::uint32_t{0}, 0};
        for (std::int64_t row = 0; row < rows; ++row)
            for (std::int64_t k = 0; k < columns; ++k) {
                const std::uint32_t slot = load_slot(slots + row * columns + k);
                found.in_all &= slot;
                found.in_any |= slot;
                to[row * pitch + k] = number(slot, step);
            }
        return found;
    }

private:
    static FASTLOSS_INLINE T number(std::uint32_t slot, double step) {
        const std::uint32_t steps = slot & kNoSite;
        const T square = squared(steps, step);
        if constexpr (mode != Mode::kSides) return square;
        return (slot & kInside) ? square : opposite(square);
    }

    static FASTLOSS_INLINE T squared(std::uint32_t steps, double step) {
        if constexpr (std::is_floating_point_v<T>) {
            const double distance = static_cast<double>(steps) * step;
            return steps == kNoSite ? kFar<T> : distance * distance;
        } else {
            constexpr std::uint32_t kRoot = sizeof(T) == 2 ? 182 : 32768;  // the least whose square is out of range
            const std::uint32_t distance = std::min(steps, kRoot) * static_cast<std::uint32_t>(step);
            const std::uint32_t limited = std::min(distance, kRoot);
            return static_cast<T>(std::min(limited * limited, static_cast<std::uint32_t>(kFar<T>)));
        }
    }

    static FASTLOSS_INLINE T opposite(T square) {
        return same_bits<T>(static_cast<LaneInt<T>>(same_bits<LaneInt<T>>(square) ^ kOppositeBits<T>));
    }
};

// Repeats the ends of a line that begins at `line`.
template <class T>
FASTLOSS_INLINE void repeat_ends(T* line, std::int64_t length) {
    constexpr std::int64_t kWidth = kLanes<T>;
    for (std::int64_t k = 1; k <= kReach; ++k) {
        std::memcpy(line - k * kWidth, line, kRowBytes);
        std::memcpy(line + (length - 1 + k) * kWidth, line + (length - 1) * kWidth, kRowBytes);
    }
}

// Columns of a plane as lines of the kernel, with their ends repeated. True where one number is not zero.
template <class T>
struct TakeColumns {
    template <int RequestedBytes>
    static FASTLOSS_INLINE bool run(const T* plane, std::int64_t pitch, std::int64_t rows, T* line) {
        constexpr int Bytes = kRegister<T, RequestedBytes>;
        Row<T, Bytes> zero = splat<Bytes>(T{});
        Mask<T, Bytes> all_zero = equal(zero, zero);
        for (std::int64_t row = 0; row < rows; ++row) {
            const Row<T, Bytes> numbers = load<Bytes>(plane + row * pitch);
            all_zero = keep<LaneInt<T>, Bytes>(all_zero, equal(numbers, zero));
            store(line + row * kLanes<T>, numbers);
        }
        repeat_ends(line, rows);
        return any(equal(all_zero, splat<Bytes>(LaneInt<T>{})));
    }
};

template <class T>
FASTLOSS_INLINE void transpose_block(const T* from, std::int64_t from_pitch, T* to, std::int64_t to_pitch) {
    for (int row = 0; row < kLanes<T>; ++row)
        for (int column = 0; column < kLanes<T>; ++column) to[column * to_pitch + row] = from[row * from_pitch + column];
}

// Rows of a plane as lines of the kernel, with their ends repeated.
template <class T>
struct TakeRows {
    template <int>
    static FASTLOSS_INLINE int run(const T* plane, std::int64_t pitch, std::int64_t columns, T* line) {
        for (std::int64_t k = 0; k < columns; k += kLanes<T>) transpose_block(plane + k, pitch, line + k * kLanes<T>, kLanes<T>);
        repeat_ends(line, columns);
        return 0;
    }
};

// The way back, without the ends.
template <class T>
struct PutRows {
    template <int>
    static FASTLOSS_INLINE int run(const T* line, std::int64_t columns, T* plane, std::int64_t pitch) {
        for (std::int64_t k = 0; k < columns; k += kLanes<T>) transpose_block(line + k * kLanes<T>, kLanes<T>, plane + k, pitch);
        return 0;
    }
};

struct Finish {
    bool root = true;              // distances, not their squares
    bool negative_inside = false;  // with Mode::kSides
    double square_unit = 1.0;      // mm² a unit of the plane's numbers
    bool float32_root = false;     // the root of a number taken in float32, times the unit, is rounded once
};

template <class T, class Out, Mode mode>
struct WriteDistances {
    template <int>
    static FASTLOSS_INLINE int run(const T* plane, std::int64_t pitch, std::int64_t rows, std::int64_t columns, const Finish& finish, Out* out) {
        const auto unit = static_cast<float>(std::sqrt(finish.square_unit));
        for (std::int64_t row = 0; row < rows; ++row) {
            const T* numbers = plane + row * pitch;
            Out* to = out + row * columns;
            if (finish.root && finish.float32_root)
                for (std::int64_t k = 0; k < columns; ++k)
                    to[k] = directed(numbers[k], unit * std::sqrt(static_cast<float>(undirected(numbers[k]))), finish);
            else if (finish.root)
                for (std::int64_t k = 0; k < columns; ++k)
                    to[k] = directed(numbers[k], static_cast<Out>(std::sqrt(square(numbers[k], finish))), finish);
            else
                for (std::int64_t k = 0; k < columns; ++k)
                    to[k] = directed(numbers[k], static_cast<Out>(square(numbers[k], finish)), finish);
        }
        return 0;
    }

private:
    static FASTLOSS_INLINE bool is_outside(T number) { return same_bits<LaneInt<T>>(number) < 0; }

    static FASTLOSS_INLINE T undirected(T number) {
        if constexpr (mode != Mode::kSides) return number;
        const auto bits = same_bits<LaneInt<T>>(number);
        return same_bits<T>(static_cast<LaneInt<T>>(bits < 0 ? bits ^ kOppositeBits<T> : bits));
    }

    static FASTLOSS_INLINE double square(T number, const Finish& finish) {
        return static_cast<double>(undirected(number)) * finish.square_unit;
    }

    static FASTLOSS_INLINE Out directed(T number, Out distance, const Finish& finish) {
        if constexpr (mode != Mode::kSides) return distance;
        return finish.negative_inside && !is_outside(number) ? -distance : distance;
    }
};

}  // namespace fastloss
