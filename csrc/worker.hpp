// What one thread needs to finish planes: a transform for each number type that it has met.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "checkpoint.hpp"
#include "plane.hpp"
#include "planner.hpp"
#include "steps.hpp"

namespace fastloss {

template <class Voxel, class Out, Mode mode, bool with_sites>
class Worker {
public:
    Worker(const Batch<Out>& batch, const Plan& plan, Checkpoint& checkpoint)
        : batch_(batch), plan_(plan), pace_(checkpoint), try_narrow_(plan.narrow.has_value()) {}

    void run(std::int64_t volume, std::int64_t number) {
        const Plane<Out> plane = plan_.plane(batch_, volume, number);
        if (plan_.general) {
            finish(made(general_, *plan_.general), plane, volume);
            return;
        }
        // planes that follow one another are alike: what one needed the next will need
        if (try_narrow_ && finish(made(narrow_, *plan_.narrow), plane, volume)) return;
        auto& whole = made(whole_, *plan_.whole);
        finish(whole, plane, volume);
        try_narrow_ = plan_.narrow && whole.greatest() < kFar<std::uint16_t>;
    }

private:
    template <class T>
    using Transform = PlaneTransform<T, Out, mode, with_sites>;

    template <class T>
    Transform<T>& made(std::optional<Transform<T>>& transform, const Squares<T>& squares) {
        if (!transform) transform.emplace(plan_.shape, squares, &take_labels<LaneInt<T>>, pace_);
        return *transform;
    }

    template <class T>
    bool finish(Transform<T>& transform, const Plane<Out>& plane, std::int64_t volume) {
        if (!transform.transform(plane)) return false;
        if constexpr (with_sites) write_sites(transform, plane, batch_.sites + volume * batch_.grid.size());
        transform.write(plane, batch_.finish);
        return true;
    }

    // Labels of a plane as lane-wide integers.
    template <class Int>
    static void take_labels(const Plane<Out>& plane, Int* to, std::int64_t pitch) {
        for (std::int64_t row = 0; row < plane.rows; ++row) {
            const char* voxels = plane.mask + plane.grid.offset(plane.first + row * plane.columns);
            const std::ptrdiff_t stride = plane.grid.axes[plane.grid.axes[2].length > 1 ? 2 : 0].stride_bytes;
            for (std::int64_t k = 0; k < plane.columns; ++k)
                to[row * pitch + k] = static_cast<Int>(voxel_at<Voxel>(voxels + k * stride));
        }
    }

    template <class T>
    void write_sites(const Transform<T>& transform, const Plane<Out>& plane, std::int64_t* sites) {
        for (std::int64_t row = 0; row < plane.rows; ++row, pace_.work(plane.columns))
            for (std::int64_t k = 0; k < plane.columns; ++k) {
                std::int64_t& site = sites[plane.first + row * plane.columns + k];
                site = -1;
                if (transform.no_site()) continue;
                const auto [site_row, site_column] = transform.site_line(row, k);
                site = site_in_column(plane, plane.first + site_row * plane.columns + site_column);
            }
    }

    // The nearest zero voxel in the column of voxel `flat`, which is as many steps away as its slot says.
    static std::int64_t site_in_column(const Plane<Out>& plane, std::int64_t flat) {
        const std::int64_t away = static_cast<std::int64_t>(load_slot(plane.volume + flat)) * plane.grid.plane_size();
        const bool before = flat >= away && voxel_at<Voxel>(plane.mask + plane.grid.offset(flat - away)) == 0;
        return before ? flat - away : flat + away;
    }

    const Batch<Out>& batch_;
    const Plan& plan_;
    Pace pace_;
    bool try_narrow_;
    std::optional<Transform<std::uint16_t>> narrow_;
    std::optional<Transform<std::int32_t>> whole_;
    std::optional<Transform<double>> general_;
};

}  // namespace fastloss
