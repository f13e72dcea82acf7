// One binary for every x86-64: hot loops are compiled for AVX2 as well and chosen at run time. Elsewhere (arm64)
// 16-byte registers are the baseline. No FMA and no AVX-512 versions: all of them give the same bits.
#pragma once

#include "lanes.hpp"

#if defined(__GNUC__) && defined(__x86_64__) && !defined(FASTLOSS_BASELINE) && !defined(FASTLOSS_SCALAR)
#define FASTLOSS_AVX2 1
#else
#define FASTLOSS_AVX2 0
#endif

namespace fastloss {

#if defined(__GNUC__) && !defined(FASTLOSS_SCALAR)
constexpr int kBaselineBytes = 16;
#else
constexpr int kBaselineBytes = 0;  // scalars
#endif

template <class T, int Bytes>
constexpr int kRegister = Bytes ? Bytes : static_cast<int>(sizeof(T));

template <class Loop, class... Arguments>
auto run_baseline(Arguments&... arguments) {
    return Loop::template run<kBaselineBytes>(arguments...);
}

#if FASTLOSS_AVX2
inline const bool kHasAvx2 = (__builtin_cpu_init(), __builtin_cpu_supports("avx2") != 0);

template <class Loop, class... Arguments>
__attribute__((target("avx2"))) auto run_avx2(Arguments&... arguments) {
    return Loop::template run<32>(arguments...);
}
#endif

// Calls Loop::run<Bytes>(arguments...), which is FASTLOSS_INLINE and calls nothing that is not.
template <class Loop, class... Arguments>
auto dispatch(Arguments&&... arguments) {
#if FASTLOSS_AVX2
    if (kHasAvx2) return run_avx2<Loop>(arguments...);
#endif
    return run_baseline<Loop>(arguments...);
}

}  // namespace fastloss
