// Threads that live for one call, so that a forked child finds no dead pool.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace fastloss {

// Calls work(worker, item) for every item of [0, count). Where the system refuses a thread the others do its
// share; the first exception ends the work and is thrown again here. Worker 0 is the caller, whose own exception goes
// before those of the others, which it may have made stop.
template <class Work>
void parallel_for(int workers, std::int64_t count, const Work& work) {
    std::atomic<std::int64_t> next{0};
    std::exception_ptr failure;
    std::mutex failing;
    const auto run = [&](int worker) {
        try {
            for (std::int64_t item; (item = next.fetch_add(1)) < count;) work(worker, item);
        } catch (...) {
            next.store(count);
            const std::lock_guard<std::mutex> lock(failing);
            if (!failure || worker == 0) failure = std::current_exception();
        }
    };
    std::vector<std::thread> threads;
    threads.reserve(static_cast<std::size_t>(workers));
    try {
        for (int worker = 1; worker < std::min<std::int64_t>(workers, count); ++worker) threads.emplace_back(run, worker);
    } catch (const std::system_error&) {
    }
    run(0);
    for (std::thread& thread : threads) thread.join();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace fastloss
