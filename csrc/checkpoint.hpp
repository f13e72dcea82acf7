// Lets the caller of a long transform end it, as Python does at Ctrl-C.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace fastloss {

class Checkpoint {
public:
    using Check = void (*)();
    struct Stopped {};

    explicit Checkpoint(Check check) : check_(check) {}

    // Throws what `check`, which runs on the caller's thread from time to time, throws there, and Stopped elsewhere.
    void pass() {
        if (stopped_.load(std::memory_order_relaxed)) throw Stopped{};
        if (!check_ || std::this_thread::get_id() != caller_) return;
        const auto now = std::chrono::steady_clock::now();
        if (now - last_ < kPeriod) return;
        last_ = now;
        try {
            check_();
        } catch (...) {
            stopped_.store(true, std::memory_order_relaxed);
            throw;
        }
    }

private:
    static constexpr std::chrono::milliseconds kPeriod{100};  // for the check may wait for other Python threads

    Check check_;
    std::thread::id caller_ = std::this_thread::get_id();
    std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
    std::atomic<bool> stopped_{false};
};

// What one thread has done since it last passed.
class Pace {
public:
    explicit Pace(Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

    void work(std::int64_t voxels) {
        constexpr std::int64_t kVoxels = 1 << 16;
        since_ += voxels;
        if (since_ < kVoxels) return;
        since_ = 0;
        checkpoint_.pass();
    }

private:
    Checkpoint& checkpoint_;
    std::int64_t since_ = 0;
};

}  // namespace fastloss
