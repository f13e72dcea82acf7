// Scratch memory of one worker, aligned to cache lines and left uninitialised.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "lanes.hpp"

namespace fastloss {

template <class T>
class Buffer {
public:
    Buffer() = default;
    explicit Buffer(std::int64_t count)
        : data_(static_cast<T*>(::operator new(static_cast<std::size_t>(count) * sizeof(T), kAlignment))) {}

    T* get() const { return data_.get(); }
    explicit operator bool() const { return data_ != nullptr; }

private:
    static constexpr std::align_val_t kAlignment{kRowBytes};
    struct Free {
        void operator()(T* data) const { ::operator delete(data, kAlignment); }
    };
    std::unique_ptr<T, Free> data_;
};

}  // namespace fastloss
