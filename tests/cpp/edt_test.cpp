// The transforms against a brute force, without Python: for the sanitizers, and for each set of row operations.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "edt.hpp"

namespace {

using fastloss::Axis;
using fastloss::Batch;
using fastloss::Grid;
using fastloss::Mode;

struct Volume {
    std::vector<std::int64_t> shape;
    std::vector<double> spacing;
    std::vector<std::uint8_t> voxels;  // several volumes behind one another

    std::int64_t size() const {
        std::int64_t product = 1;
        for (const std::int64_t length : shape) product *= length;
        return product;
    }
    std::int64_t count() const { return static_cast<std::int64_t>(voxels.size()) / size(); }

    Grid grid() const {
        std::vector<Axis> axes(shape.size());
        std::ptrdiff_t stride = 1;
        for (std::size_t a = shape.size(); a-- > 0; stride *= shape[a]) axes[a] = {shape[a], stride, spacing[a]};
        return Grid(axes);
    }
};

template <class Out>
struct Result {
    std::vector<Out> field;
    std::vector<std::int64_t> sites;
};

template <class Out, Mode mode, bool with_sites>
Result<Out> transform(const Volume& volume, int threads) {
    Result<Out> result;
    result.field.assign(volume.voxels.size(), std::numeric_limits<Out>::quiet_NaN());
    if (with_sites) result.sites.assign(volume.voxels.size(), -2);
    Batch<Out> batch{reinterpret_cast<const char*>(volume.voxels.data()), {}, volume.grid(), result.field.data(),
                     result.sites.data(), {}, threads};
    for (std::int64_t v = 0; v < volume.count(); ++v) batch.volumes.push_back(v * volume.size());
    fastloss::distance_transform<std::uint8_t, Out, mode, with_sites>(batch);
    return result;
}

double square_between(const Volume& volume, std::int64_t a, std::int64_t b) {
    double squares[3] = {0, 0, 0};
    for (std::size_t axis = volume.shape.size(); axis-- > 0; a /= volume.shape[axis], b /= volume.shape[axis]) {
        const double distance = static_cast<double>(a % volume.shape[axis] - b % volume.shape[axis]) * volume.spacing[axis];
        squares[axis] = distance * distance;
    }
    return (squares[0] + squares[1]) + squares[2];
}

bool is_site(Mode mode, std::uint8_t from, std::uint8_t to) {
    if (mode == Mode::kMask) return to == 0;
    return mode == Mode::kSides ? (from != 0) != (to != 0) : from != to;
}

double nearest(const Volume& volume, Mode mode, std::int64_t first, std::int64_t x) {
    const std::uint8_t* voxels = volume.voxels.data() + first;
    double least = std::numeric_limits<double>::infinity();
    for (std::int64_t y = 0; y < volume.size(); ++y)
        if (is_site(mode, voxels[x], voxels[y])) least = std::min(least, square_between(volume, x, y));
    if (mode == Mode::kMask && voxels[x] == 0) return 0;
    return mode != Mode::kMask && std::isinf(least) ? 0 : least;
}

int failures = 0;

void expect(bool holds, const char* what, const Volume& volume, std::int64_t voxel) {
    if (holds || ++failures > 20) return;
    std::fprintf(stderr, "%s: voxel %lld, shape", what, static_cast<long long>(voxel));
    for (std::size_t a = 0; a < volume.shape.size(); ++a)
        std::fprintf(stderr, " %lld (%g mm)", static_cast<long long>(volume.shape[a]), volume.spacing[a]);
    std::fprintf(stderr, "\n");
}

template <class Out, Mode mode>
void check(const Volume& volume, int threads, const char* what) {
    const Result<Out> result = transform<Out, mode, mode == Mode::kMask>(volume, threads);
    for (std::int64_t v = 0; v < volume.count(); ++v)
        for (std::int64_t x = 0; x < volume.size(); ++x) {
            const std::int64_t first = v * volume.size();
            const double square = nearest(volume, mode, first, x);
            const auto got = result.field[static_cast<std::size_t>(first + x)];
            const bool exact = got == static_cast<Out>(std::sqrt(square));
            // in whole numbers the last bit of float64 is that of the sum times the unit
            expect(exact || (sizeof(Out) == 8 && std::abs(got - std::sqrt(square)) < 1e-15 * got), what, volume, first + x);
            if (mode != Mode::kMask) continue;
            const std::int64_t site = result.sites[static_cast<std::size_t>(first + x)];
            const bool valid = std::isinf(square) ? site == -1
                                                  : site >= 0 && site < volume.size() && volume.voxels[static_cast<std::size_t>(first + site)] == 0;
            expect(valid, "no site", volume, first + x);
            if (valid && site >= 0)
                expect(static_cast<float>(square_between(volume, x, site)) == static_cast<float>(square), "a site farther away", volume, first + x);
        }
}

void check_all(const Volume& volume, int threads) {
    check<float, Mode::kMask>(volume, threads, "mask, float32");
    check<float, Mode::kSides>(volume, threads, "sides, float32");
    check<float, Mode::kLabels>(volume, threads, "labels, float32");
    check<double, Mode::kMask>(volume, threads, "mask, float64");
    check<double, Mode::kSides>(volume, threads, "sides, float64");
}

Volume random_volume(std::mt19937& random, std::vector<std::int64_t> shape, std::vector<double> spacing, int volumes) {
    Volume volume{std::move(shape), std::move(spacing), {}};
    volume.voxels.resize(static_cast<std::size_t>(volume.size() * volumes));
    const unsigned rarity = 1u << random() % 12;
    for (std::size_t i = 0; i < volume.voxels.size(); ++i)
        volume.voxels[i] = static_cast<std::uint8_t>(random() % rarity ? 1 : random() % 4);
    return volume;
}

// One column changes sides where no other does, and far from it: on either side of a change the nearest is the other.
void check_changes_of_one_column() {
    constexpr std::int64_t kColumns = 32, kChangeOfOthers = 50, kAcross = 7;
    for (std::int64_t change = 1; change < 48; ++change) {
        Volume volume{{2, 60, kColumns}, {1, 1, kAcross}, std::vector<std::uint8_t>(2 * 60 * kColumns)};
        for (std::int64_t x = 0; x < volume.size(); ++x)
            volume.voxels[static_cast<std::size_t>(x)] = x / kColumns % 60 < (x % kColumns == 0 ? change : kChangeOfOthers);
        const auto sides = transform<float, Mode::kSides, false>(volume, 1).field;
        const auto labels = transform<float, Mode::kLabels, false>(volume, 1).field;
        for (std::int64_t row = 0; row < kChangeOfOthers; ++row) {
            const std::int64_t distance = row < change ? change - row : std::min(row - change + 1, kAcross);
            const auto at = static_cast<std::size_t>(row * kColumns);
            expect(sides[at] == static_cast<float>(distance), "a change of sides in one column", volume, row * kColumns);
            expect(labels[at] == static_cast<float>(distance), "a change of labels in one column", volume, row * kColumns);
        }
    }
}

// Long lines whose nearest sites lie at either end, in turn: their lanes are solved one by one.
void check_opposite_ends() {
    for (const std::int64_t columns : {3, 17}) {
        Volume volume{{2, 300, columns}, {1, 1, 1}, {}};
        volume.voxels.assign(static_cast<std::size_t>(volume.size()), 1);
        for (std::int64_t k = 0; k < columns; ++k) volume.voxels[static_cast<std::size_t>(k % 2 ? k : 299 * columns + k)] = 0;
        volume.spacing[2] = 400;  // so that no column's nearest site is another's
        check_all(volume, 1);
    }
}

void many_at_once(std::mt19937& random) {
    const Volume volume = random_volume(random, {40, 41, 42}, {1, 1, 1}, 2);
    const auto expected = transform<float, Mode::kSides, false>(volume, 1);
    std::vector<std::thread> threads;
    std::vector<char> same(4, 0);
    for (std::size_t t = 0; t < same.size(); ++t)
        threads.emplace_back([&, t] { same[t] = transform<float, Mode::kSides, false>(volume, 2).field == expected.field; });
    for (std::thread& thread : threads) thread.join();
    for (const char is_same : same) expect(is_same != 0, "several callers at once", volume, -1);
}

}  // namespace

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 30;
    std::mt19937 random(1);
    const std::vector<std::vector<std::int64_t>> shapes{{1}, {70}, {1, 9}, {33, 5}, {5, 65}, {7, 9, 11}, {12, 1, 40}, {3, 34, 6}, {2, 3, 70}};
    // multiples of one length in 16 and in 32 bits, and those that have none
    const std::vector<std::vector<double>> spacings{{1, 1, 1}, {3, 1, 1}, {0.5, 1, 20}, {90, 1, 3}, {0.7123, 0.81, 1.37}};
    for (int round = 0; round < rounds; ++round)
        for (const auto& shape : shapes) {
            std::vector<double> spacing = spacings[random() % spacings.size()];
            spacing.resize(shape.size());
            check_all(random_volume(random, shape, spacing, 1 + static_cast<int>(random() % 3)), 1 + static_cast<int>(random() % 3));
        }
    for (const std::int64_t length : {200, 600}) {  // squares beyond 16 bits
        Volume line = random_volume(random, {2, 2, length}, {1, 1, 1}, 1);
        std::fill(line.voxels.begin(), line.voxels.end(), std::uint8_t{1});
        line.voxels[0] = 0;
        check_all(line, 2);
    }
    check_changes_of_one_column();
    check_opposite_ends();
    many_at_once(random);
    std::printf(failures ? "%d failures\n" : "passed\n", failures);
    return failures != 0;
}
