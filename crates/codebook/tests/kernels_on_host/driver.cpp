// The kernels of the nearest-code search but for the tensor cores' sweep, of sums by codes and of
// largest scores, against plain formulas. Says which cases are off, and how many there were. With an
// argument, threads take turns backwards.
#include "cuda_on_host.h"
// Before what includes it in a namespace of its own.
#include FILE_FACTS
namespace preparation {
#include FILE_PREPARE
}
namespace sweeps {
#include FILE_SWEEP
}
namespace resolution {
#include FILE_RESOLVE
}
namespace by_code {
#include FILE_SUMS
}
namespace largest_of {
#include FILE_ARGMAX
}

// No numbers here are converted by kernels.
template <typename T> T from_float(float x) { return x; }
inline float to_float(float x) { return x; }
#include "cases.h"

using Codes = std::vector<uint32_t>;
constexpr uint32_t NONE = 0xffffffffu;

static unsigned blocks(size_t count, size_t each) {
    return static_cast<unsigned>((count + each - 1) / each);
}

// What `plain.rs` says, sums in its order.
static double distance(const float *a, const float *b, int dim) {
    double lanes[8] = {}, sum = 0.0, rest = 0.0;
    auto square = [&](int k) {
        const double difference = static_cast<double>(a[k]) - b[k];
        return difference * difference;
    };
    int k = 0;
    for (; k + 8 <= dim; k += 8)
        for (int lane = 0; lane < 8; ++lane) lanes[lane] += square(k + lane);
    for (double lane : lanes) sum += lane;
    for (; k < dim; ++k) rest += square(k);
    return sum + rest;
}

static Codes nearest(const Numbers &vectors, const Numbers &codes, int rows, int len, int dim) {
    Codes found;
    for (int row = 0; row < rows; ++row) {
        uint32_t code = NONE;
        double least = INFINITY;
        bool finite = true;
        for (int c = 0; c < len; ++c) {
            const double own = distance(&vectors[row * dim], &codes[c * dim], dim);
            finite = finite && std::isfinite(own);
            if (own < least) least = own, code = c;
        }
        found.push_back(finite ? code : NONE);
    }
    return found;
}

static void same(const std::string &what, const Codes &found, const Codes &expected) {
    for (uint32_t code : found) digest = (digest ^ code) * 1099511628211ull;
    expect(found == expected, what.c_str());
}

// What vectors and codes are like.
enum Kind { PLAIN, TIES, ALL_ALIKE, HUGE_ONES, BROKEN, SMALL };

static void search(int rows, int len, int dim, int parts, Kind kind) {
    const float size = kind == SMALL ? 1e-25f : 1.0f;
    Numbers vectors = noise(static_cast<size_t>(rows) * dim, size);
    Numbers codes = noise(static_cast<size_t>(len) * dim, size);
    if (kind == TIES)
        for (int c = 3; c < len; c += 3)
            std::copy_n(&codes[(c - 3) * dim], dim, &codes[c * dim]);
    if (kind == ALL_ALIKE)
        for (int c = 1; c + 1 < len; ++c) std::copy_n(&codes[0], dim, &codes[c * dim]);
    if (kind == HUGE_ONES) vectors[(rows / 2) * dim] = 3e17f;
    if (kind == BROKEN) vectors[(rows / 2) * dim + dim - 1] = NAN;
    const Codes expected = nearest(vectors, codes, rows, len, dim);

    // With images, as if the tensor cores were to read them.
    const int padded = blocks(dim, 64) * 64, tile = 128;
    const size_t padded_rows = blocks(rows, tile) * size_t(tile);
    const size_t padded_codes = blocks(len, TILE) * size_t(TILE);
    const bool images = dim <= preparation::CACHED;
    std::vector<__half> image(images ? padded_rows * padded : 0);
    std::vector<__half> code_image(images ? padded_codes * padded : 0);
    auto given = [&](std::vector<__half> &image) { return images ? image.data() : nullptr; };
    std::vector<Facts> facts(rows);
    uint32_t largest = 0, failed = 0;
    Numbers starts(padded_codes);
    std::vector<float2> tiles(padded_codes / TILE);
    launch({blocks(padded_rows, 8), 1}, 256, [&] {
        preparation::prepare_vectors(vectors.data(), rows, padded_rows, dim, padded, tile,
                                     given(image), facts.data());
    });
    launch({2, 1}, 256, [&] {
        preparation::largest_magnitude(codes.data(), static_cast<int64_t>(len) * dim, &largest);
    });
    launch({blocks(padded_codes, 8), 1}, 256, [&] {
        preparation::prepare_codes(codes.data(), len, padded_codes, dim, padded, TILE, &largest,
                                   given(code_image), starts.data(), tiles.data());
    });
    if (images) {
        // Where they are said to be, as far off as is known.
        bool near = true;
        for (int row = 0; row < rows; ++row) {
            double lost = 0.0;
            for (int k = 0; k < padded && facts[row].usable > 0.0f; ++k) {
                const size_t at = preparation::place(row, k / 8, tile, padded / 64) + k % 8;
                const double kept = static_cast<double>(__half2float(image[at])) * facts[row].inverse;
                lost += std::pow(kept - (k < dim ? vectors[row * dim + k] : 0.0f), 2);
            }
            near = near && std::sqrt(lost) <= facts[row].lost;
        }
        expect(near, "vectors in f16");
    }
    std::vector<Candidate> candidates(static_cast<size_t>(rows) * parts * CANDIDATES);
    Codes counts(static_cast<size_t>(rows) * parts), found(rows, 7);
    Numbers limits(counts.size());
    auto sweep = [&](auto kernel, int of_block, unsigned threads) {
        launch({blocks(rows, of_block), static_cast<unsigned>(parts)}, threads, [&] {
            kernel(vectors.data(), facts.data(), codes.data(), starts.data(), tiles.data(),
                   &largest, rows, len, dim, parts, candidates.data(), counts.data(),
                   limits.data());
        });
    };
    if (dim <= 4) sweep(sweeps::sweep_few_4, 512, 128);
    else if (dim <= 8) sweep(sweeps::sweep_few_8, 512, 128);
    else if (dim <= 16) sweep(sweeps::sweep_few_16, 512, 128);
    else if (dim <= 32) sweep(sweeps::sweep_few_32, 256, 128);
    else sweep(sweeps::sweep_many, 64, 256);
    launch({blocks(rows, 4), 1}, 128, [&] {
        resolution::resolve(vectors.data(), facts.data(), codes.data(), &largest,
                            candidates.data(), counts.data(), limits.data(), rows, len, dim, parts,
                            found.data(), &failed);
    });
    const std::string of = text("nearest of %d codes to %d vectors of %d, %d parts, kind %d", len,
                                rows, dim, parts, kind);
    same(of, found, expected);
    expect(failed == (kind == BROKEN), (of + ", failed").c_str());
    failed = 0;
    launch({blocks(rows, 4), 1}, 128, [&] {
        resolution::all_codes_f32(vectors.data(), codes.data(), rows, len, dim, found.data(),
                                  &failed);
    });
    same(of + ", by all", found, expected);
}

static void sums(int rows, int len, int dim, float size) {
    const Numbers vectors = noise(static_cast<size_t>(rows) * dim, size);
    Codes codes;
    for (int row = 0; row < rows; ++row) codes.push_back(static_cast<uint32_t>(uniform() * len));
    // One that there is not, which counts nowhere.
    codes[0] = NONE;
    Exact expected(static_cast<size_t>(len) * (dim + 1));
    for (int row = 1; row < rows; ++row) {
        for (int k = 0; k < dim; ++k) expected[codes[row] * (dim + 1) + k] += vectors[row * dim + k];
        expected[codes[row] * (dim + 1) + dim] += 1.0;
    }
    uint32_t largest = 0;
    std::vector<unsigned long long> fixed(expected.size());
    Numbers made(expected.size());
    launch({1, 1}, 256, [&] {
        preparation::largest_magnitude(vectors.data(), static_cast<int64_t>(vectors.size()), &largest);
    });
    launch({blocks(static_cast<size_t>(rows) * (dim + 1), 256), 1}, 256, [&] {
        by_code::add_to_codes(vectors.data(), codes.data(), rows, len, dim, &largest, fixed.data());
    });
    launch({blocks(made.size(), 256), 1}, 256, [&] {
        by_code::sums_to_floats(reinterpret_cast<const long long *>(fixed.data()), made.size(), dim,
                                &largest, made.data());
    });
    // A number at a time: counts are larger by far.
    bool near = true;
    for (size_t i = 0; i < made.size(); ++i) {
        const bool count = i % (dim + 1) == static_cast<size_t>(dim);
        const double off = std::fabs(made[i] - expected[i]);
        near = near && off <= (count ? 0.0 : 6e-8 * std::fabs(expected[i]) + 1e-11 * size * rows);
    }
    expect(near, text("sums of %d vectors of %d by %d codes, of size %g", rows, dim, len, size).c_str());
}

template <typename T, typename K> static void argmax(K kernel, int rows, int len) {
    std::vector<T> scores;
    for (float x : noise(static_cast<size_t>(rows) * len, 5.0f)) scores.push_back(std::round(x));
    // Nothing but minus infinity, and a NaN in another row.
    std::fill_n(scores.begin(), len, -INFINITY);
    if (rows > 2) scores[2 * len - 1] = NAN;
    Codes found(rows), expected;
    uint32_t failed = 0;
    for (int row = 0; row < rows; ++row) {
        const auto first = scores.begin() + row * len;
        const uint32_t code = std::max_element(first, first + len) - first;
        expected.push_back(rows > 2 && row == 1 ? NONE : code);
    }
    launch({static_cast<unsigned>(rows), 1}, 256, [&] {
        kernel(scores.data(), len, found.data(), &failed);
    });
    const std::string of = text("largest of %d in %d rows", len, rows);
    same(of, found, expected);
    expect(failed == (rows > 2), (of + ", failed").c_str());
}

int main(int count, char **) {
    backwards = count > 1;
    for (int dim : {1, 4, 7, 8, 16, 27, 33, 64, 100}) search(70, 300, dim, 2, PLAIN);
    search(1, 1, 8, 1, PLAIN);
    search(5, 2, 70, 1, PLAIN);
    search(600, 257, 5, 1, PLAIN);
    search(130, 1100, 40, 3, PLAIN);
    search(9, 300, 520, 2, PLAIN);
    for (int dim : {3, 32, 48})
        for (Kind kind : {TIES, ALL_ALIKE, HUGE_ONES, BROKEN, SMALL}) search(20, 530, dim, 2, kind);
    for (float size : {1.0f, 1e-30f, 1e30f}) sums(100, 7, 5, size);
    for (int len : {1, 31, 300, 1025}) {
        argmax<float>(largest_of::argmax_f32, 4, len);
        argmax<double>(largest_of::argmax_f64, 1, len);
    }
    std::printf("digest %016llx\n", static_cast<unsigned long long>(digest));
    std::printf("%d cases, %d off\n", cases, failures);
    return failures == 0 ? 0 : 1;
}
