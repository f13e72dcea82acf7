// A row: one cache line of numbers that are worked on together.
//
// A row is as wide everywhere; `Bytes` is the width of the registers it is cut into. So a kernel gives the same
// bits whichever instruction set runs it. Registers of sizeof(T) bytes are plain scalars, for compilers without
// vector types.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(_MSC_VER)
#define FASTLOSS_INLINE __forceinline
#else
#define FASTLOSS_INLINE inline __attribute__((always_inline))  // so that it takes on its caller's instruction set
#endif

namespace fastloss {

constexpr int kRowBytes = 64;

template <class T>
constexpr int kLanes = kRowBytes / static_cast<int>(sizeof(T));

// Signed integer as wide as T: masks (0 or -1), positions and labels of a lane.
template <class T>
using LaneInt = std::conditional_t<sizeof(T) == 2, std::int16_t,
                                   std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>>;

template <class T, int Bytes>
struct Register {
#if defined(__GNUC__)
    typedef T type __attribute__((vector_size(Bytes)));
#endif
};
template <class T>
struct Register<T, static_cast<int>(sizeof(T))> {
    using type = T;
};

template <class T, int Bytes>
struct Row {
    static constexpr int kParts = kRowBytes / Bytes;
    typename Register<T, Bytes>::type part[kParts];
};

template <class T, int Bytes>
using Mask = Row<LaneInt<T>, Bytes>;

template <class To, class From>
FASTLOSS_INLINE To same_bits(const From& from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

template <int Bytes, class T>
FASTLOSS_INLINE Row<T, Bytes> load(const T* from) {
    Row<T, Bytes> row;  // part by part: copied as a whole it would be kept in memory
    for (int i = 0; i < row.kParts; ++i) std::memcpy(&row.part[i], from + i * (Bytes / sizeof(T)), Bytes);
    return row;
}

template <class T, int Bytes>
FASTLOSS_INLINE void store(T* to, const Row<T, Bytes>& row) {
    for (int i = 0; i < row.kParts; ++i) std::memcpy(to + i * (Bytes / sizeof(T)), &row.part[i], Bytes);
}

template <int Bytes, class T>
FASTLOSS_INLINE Row<T, Bytes> splat(T value) {
    T lanes[kLanes<T>];
    for (T& lane : lanes) lane = value;  // GCC 12 inserts lane by lane where a vector is made of one number
    return load<Bytes>(lanes);
}

template <class T, int Bytes>
FASTLOSS_INLINE Row<T, Bytes> operator+(const Row<T, Bytes>& a, const Row<T, Bytes>& b) {
    Row<T, Bytes> sum;
    for (int i = 0; i < sum.kParts; ++i) sum.part[i] = static_cast<typename Register<T, Bytes>::type>(a.part[i] + b.part[i]);
    return sum;
}

template <class T, int Bytes>
FASTLOSS_INLINE Row<T, Bytes> min(const Row<T, Bytes>& a, const Row<T, Bytes>& b) {
    Row<T, Bytes> least;
    for (int i = 0; i < least.kParts; ++i) least.part[i] = a.part[i] < b.part[i] ? a.part[i] : b.part[i];
    return least;
}

template <class T, int Bytes>
FASTLOSS_INLINE Row<T, Bytes> max(const Row<T, Bytes>& a, const Row<T, Bytes>& b) {
    Row<T, Bytes> most;
    for (int i = 0; i < most.kParts; ++i) most.part[i] = a.part[i] > b.part[i] ? a.part[i] : b.part[i];
    return most;
}

template <class MaskPart, class Comparison>
FASTLOSS_INLINE MaskPart mask_of(const Comparison& holds) {
    if constexpr (std::is_same_v<Comparison, bool>)
        return static_cast<MaskPart>(-static_cast<int>(holds));
    else
        return same_bits<MaskPart>(holds);
}

template <class T, int Bytes>
FASTLOSS_INLINE Mask<T, Bytes> greater(const Row<T, Bytes>& a, const Row<T, Bytes>& b) {
    Mask<T, Bytes> mask;
    for (int i = 0; i < mask.kParts; ++i)
        mask.part[i] = mask_of<typename Register<LaneInt<T>, Bytes>::type>(a.part[i] > b.part[i]);
    return mask;
}

template <class T, int Bytes>
FASTLOSS_INLINE Mask<T, Bytes> equal(const Row<T, Bytes>& a, const Row<T, Bytes>& b) {
    Mask<T, Bytes> mask;
    for (int i = 0; i < mask.kParts; ++i)
        mask.part[i] = mask_of<typename Register<LaneInt<T>, Bytes>::type>(a.part[i] == b.part[i]);
    return mask;
}

template <class T, int Bytes>
FASTLOSS_INLINE bool any(const Row<T, Bytes>& mask) {
    using Wide = std::conditional_t<Bytes == static_cast<int>(sizeof(T)), T, std::uint64_t>;
    auto bits = mask.part[0];
    for (int i = 1; i < mask.kParts; ++i) bits |= mask.part[i];
    Wide words[Bytes / sizeof(Wide)], all = 0;
    std::memcpy(words, &bits, Bytes);
    for (const Wide word : words) all |= word;
    return all != 0;
}

// `row` where the mask is set, else zero.
template <class T, int Bytes>
FASTLOSS_INLINE Row<T, Bytes> keep(const Row<T, Bytes>& row, const Mask<T, Bytes>& mask) {
    using Part = typename Register<T, Bytes>::type;
    using Bits = typename Register<LaneInt<T>, Bytes>::type;
    Row<T, Bytes> kept;
    for (int i = 0; i < kept.kParts; ++i)
        kept.part[i] = same_bits<Part>(static_cast<Bits>(same_bits<Bits>(row.part[i]) & mask.part[i]));
    return kept;
}

// `a` where the mask is set, else `b`.
template <class T, int Bytes>
FASTLOSS_INLINE Row<T, Bytes> select(const Mask<T, Bytes>& mask, const Row<T, Bytes>& a, const Row<T, Bytes>& b) {
    using Part = typename Register<T, Bytes>::type;
    using Bits = typename Register<LaneInt<T>, Bytes>::type;
    Row<T, Bytes> chosen;
    for (int i = 0; i < chosen.kParts; ++i)
        chosen.part[i] = same_bits<Part>(static_cast<Bits>((mask.part[i] & same_bits<Bits>(a.part[i])) |
                                                           (~mask.part[i] & same_bits<Bits>(b.part[i]))));
    return chosen;
}

// A number and its opposite. Integers take the one's complement, which keeps 0 apart from its opposite.
template <class T>
constexpr LaneInt<T> kOppositeBits =
    std::is_floating_point_v<T> ? static_cast<LaneInt<T>>(LaneInt<T>{1} << (8 * sizeof(T) - 1)) : LaneInt<T>{-1};

template <class T, int Bytes>
FASTLOSS_INLINE Row<T, Bytes> opposite_where(const Mask<T, Bytes>& mask, const Row<T, Bytes>& row) {
    using Part = typename Register<T, Bytes>::type;
    using Bits = typename Register<LaneInt<T>, Bytes>::type;
    Row<T, Bytes> turned;
    for (int i = 0; i < turned.kParts; ++i)
        turned.part[i] = same_bits<Part>(
            static_cast<Bits>(same_bits<Bits>(row.part[i]) ^ static_cast<Bits>(mask.part[i] & kOppositeBits<T>)));
    return turned;
}

template <class T, int Bytes>
FASTLOSS_INLINE Mask<T, Bytes> is_opposite(const Row<T, Bytes>& row) {
    using Bits = typename Register<LaneInt<T>, Bytes>::type;
    Mask<T, Bytes> mask;
    for (int i = 0; i < mask.kParts; ++i) mask.part[i] = mask_of<Bits>(same_bits<Bits>(row.part[i]) < Bits{});
    return mask;
}

// Zero in place of opposites.
template <class T, int Bytes>
FASTLOSS_INLINE Row<T, Bytes> zero_opposites(const Row<T, Bytes>& row) {
    using Part = typename Register<T, Bytes>::type;
    using Bits = typename Register<LaneInt<T>, Bytes>::type;
    Row<T, Bytes> kept;
    for (int i = 0; i < kept.kParts; ++i) {
        const Bits bits = same_bits<Bits>(row.part[i]);
        kept.part[i] = same_bits<Part>(bits > Bits{} ? bits : Bits{});  // the sign bit decides, for float64 as well
    }
    return kept;
}

}  // namespace fastloss
