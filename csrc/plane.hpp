// Axes 1 and 2 of a plane, from steps along axis 0 to distances, in scratch memory that fits the caches.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#include "buffer.hpp"
#include "checkpoint.hpp"
#include "grid.hpp"
#include "minplus.hpp"
#include "squares.hpp"
#include "tiles.hpp"

namespace fastloss {

// Of the largest plane of a volume. With fewer than three axes a plane is any block of consecutive voxels.
struct PlaneShape {
    std::int64_t rows, columns;
    bool along_rows, along_columns;  // whether rows and columns are axes 1 and 2, or have nothing to do with one another
};

// `rows` times `columns` voxels of a volume in C order, from number `first` on.
template <class Out>
struct Plane {
    const Grid& grid;
    const char* mask;  // the volume's
    Out* volume;       // slots, and then distances
    std::int64_t first, rows, columns;

    Out* out() const { return volume + first; }
};

template <class T, class Out, Mode mode, bool with_sites>
class PlaneTransform {
public:
    using Int = LaneInt<T>;
    using TakeLabels = void (*)(const Plane<Out>&, Int* to, std::int64_t pitch);

    PlaneTransform(const PlaneShape& shape, const Squares<T>& squares, TakeLabels take_labels, Pace& pace)
        : shape_(shape), squares_(squares), take_labels_(take_labels), pace_(pace), pitch_(whole_tiles(shape.columns)),
          numbers_(plane_of<T>()), line_(line_of<T>()), line_out_(line_of<T>()),
          pending_(std::max(shape.rows, shape.columns)) {
        if constexpr (mode == Mode::kLabels) {
            labels_ = plane_of<Int>();
            line_labels_ = line_of<Int>();
        }
        if constexpr (with_sites) {
            site_rows_ = plane_of<Int>();
            site_columns_ = plane_of<Int>();
            line_sites_ = line_of<Int>();
        }
    }

    // Squared distances in numbers(). False where one leaves the range of T.
    bool transform(const Plane<Out>& plane) {
        const auto found = dispatch<SquareSteps<T, Out, mode>>(plane.out(), plane.rows, plane.columns, squares_.step[0],
                                                               numbers_.get(), pitch_);
        if constexpr (mode == Mode::kLabels) take_labels_(plane, labels_.get(), pitch_);
        clear_rows(plane.rows);
        greatest_ = T{};
        no_site_ = one_value(found, plane);
        if (no_site_) return true;
        if constexpr (with_sites) start_sites(plane);
        if (mode == Mode::kMask && found.in_any == 0) return true;
        if (shape_.along_rows && !columns_pass(plane.rows)) return false;
        if (shape_.along_columns) return rows_pass(plane.rows);
        greatest_ = kFar<T>;  // not known
        return true;
    }

    void write(const Plane<Out>& plane, Finish finish) const {
        const double unit = std::sqrt(squares_.square_unit);
        int exponent;
        // whole numbers below 2^24 and powers of two are exact in float32
        finish.float32_root = sizeof(Out) == 4 && sizeof(T) < 8 && static_cast<double>(greatest_) < 0x1p24 &&
                              std::frexp(unit, &exponent) == 0.5 && std::abs(exponent) < 64;
        finish.square_unit = squares_.square_unit;
        if (no_site_)
            std::fill_n(plane.out(), plane.rows * plane.columns, mode == Mode::kMask ? std::numeric_limits<Out>::infinity() : Out{});
        else
            dispatch<WriteDistances<T, Out, mode>>(numbers_.get(), pitch_, plane.rows, plane.columns, finish, plane.out());
    }

    // The row of the plane and the column, in which the nearest site of (row, column) lies.
    std::pair<std::int64_t, std::int64_t> site_line(std::int64_t row, std::int64_t column) const {
        const std::int64_t site_column = site_columns_.get()[row * pitch_ + column];
        return {site_rows_.get()[row * pitch_ + site_column], site_column};
    }

    bool no_site() const { return no_site_; }
    T greatest() const { return greatest_; }

private:
    static std::int64_t whole_tiles(std::int64_t count) { return (count + kLanes<T> - 1) / kLanes<T> * kLanes<T>; }

    template <class U>
    Buffer<U> plane_of() const {
        return zeros<U>(whole_tiles(shape_.rows) * pitch_);  // zeros: what lies beyond the plane has no distance to go
    }

    template <class U>
    Buffer<U> line_of() const {
        return zeros<U>((whole_tiles(std::max(shape_.rows, shape_.columns)) + 2 * kReach) * kLanes<T>);
    }

    template <class U>
    static Buffer<U> zeros(std::int64_t count) {
        Buffer<U> buffer(count);
        std::fill_n(buffer.get(), count, U{});
        return buffer;
    }

    static std::int64_t line_start() { return kReach * kLanes<T>; }

    // The whole volume lies on one side, or has one label: each of its columns, and the columns as well.
    bool one_value(const SlotBits& found, const Plane<Out>& plane) const {
        if (mode == Mode::kMask) return found.in_all == kNoSite;
        if ((found.in_all & kNoSite) != kNoSite) return false;
        if constexpr (mode == Mode::kSides) return found.in_all == found.in_any;
        const Int* labels = labels_.get();
        for (std::int64_t row = 0; row < plane.rows; ++row)
            for (std::int64_t k = 0; k < plane.columns; ++k)
                if (labels[row * pitch_ + k] != labels[0]) return false;
        return true;
    }

    // What an earlier plane left beyond the last row would take part in this plane's last tile.
    void clear_rows(std::int64_t from) {
        std::fill(numbers_.get() + from * pitch_, numbers_.get() + whole_tiles(from) * pitch_, T{});
    }

    void start_sites(const Plane<Out>& plane) {
        for (std::int64_t row = 0; row < plane.rows; ++row)
            for (std::int64_t k = 0; k < plane.columns; ++k) {
                site_rows_.get()[row * pitch_ + k] = static_cast<Int>(row);
                site_columns_.get()[row * pitch_ + k] = static_cast<Int>(k);
            }
    }

    Lines<T> lines_along(std::size_t axis, std::int64_t length) const {
        Lines<T> lines;
        lines.length = length;
        lines.cost = line_.get() + line_start();
        if constexpr (mode == Mode::kLabels) lines.label = line_labels_.get() + line_start();
        lines.square = squares_.rows[axis].data();
        lines.step = squares_.step[axis];
        lines.pending = pending_.get();
        return lines;
    }

    bool columns_pass(std::int64_t rows) {
        Lines<T> lines = lines_along(1, rows);
        lines.out_pitch = pitch_;
        for (std::int64_t k = 0; k < shape_.columns; k += kLanes<T>) {
            pace_.work(rows * kLanes<T>);
            const bool work = dispatch<TakeColumns<T>>(numbers_.get() + k, pitch_, rows, line_.get() + line_start());
            if (!work && mode == Mode::kMask) continue;
            lines.lanes = std::min<std::int64_t>(shape_.columns - k, kLanes<T>);
            if constexpr (mode == Mode::kLabels)
                dispatch<TakeColumns<Int>>(labels_.get() + k, pitch_, rows, line_labels_.get() + line_start());
            lines.out = numbers_.get() + k;
            if constexpr (with_sites) lines.best = site_rows_.get() + k;
            if (dispatch<MinPlus<T, mode, with_sites>>(lines).beyond) return false;
        }
        return true;
    }

    bool rows_pass(std::int64_t rows) {
        Lines<T> lines = lines_along(2, shape_.columns);
        lines.out = line_out_.get();
        if constexpr (with_sites) lines.best = line_sites_.get();
        for (std::int64_t row = 0; row < rows; row += kLanes<T>) {
            pace_.work(shape_.columns * kLanes<T>);
            T* numbers = numbers_.get() + row * pitch_;
            lines.lanes = std::min<std::int64_t>(rows - row, kLanes<T>);
            dispatch<TakeRows<T>>(numbers, pitch_, shape_.columns, line_.get() + line_start());
            if constexpr (mode == Mode::kLabels)
                dispatch<TakeRows<Int>>(labels_.get() + row * pitch_, pitch_, shape_.columns, line_labels_.get() + line_start());
            const Outcome<T> outcome = dispatch<MinPlus<T, mode, with_sites>>(lines);
            greatest_ = std::max(greatest_, outcome.greatest);
            if (sizeof(T) < 8 && (outcome.beyond || outcome.greatest >= kFar<T>)) return false;
            dispatch<PutRows<T>>(line_out_.get(), shape_.columns, numbers, pitch_);
            if constexpr (with_sites) dispatch<PutRows<Int>>(line_sites_.get(), shape_.columns, site_columns_.get() + row * pitch_, pitch_);
        }
        return true;
    }

    PlaneShape shape_;
    const Squares<T>& squares_;
    TakeLabels take_labels_;
    Pace& pace_;
    std::int64_t pitch_;
    T greatest_{};
    bool no_site_ = false;
    Buffer<T> numbers_, line_, line_out_;
    Buffer<Int> labels_, line_labels_, site_rows_, site_columns_, line_sites_;
    Buffer<std::int32_t> pending_;
};

}  // namespace fastloss
