// The kernels around convolutions, of batch norm and of single elements, against plain formulas.
// Says which cases are off, and how many there were. With an argument, threads take turns backwards.
#include "cuda_on_host.h"
// Before what includes it in a namespace of its own.
#include FILE_COMMON
namespace of_groups {
#include FILE_GROUPS
}
#undef KERNELS
namespace of_batches {
#include FILE_BATCHES
}
#undef KERNELS
namespace of_planes {
#include FILE_PLANES
}
#undef KERNELS
namespace of_elements {
#include FILE_POINTWISE
}

#include "cases.h"

static void shift(unsigned planes, unsigned h, unsigned w, int dy, int dx, unsigned to_h,
                  unsigned to_w) {
    const Numbers x = noise(static_cast<size_t>(planes) * h * w);
    Exact expected;
    for (unsigned i = 0; i < planes * to_h * to_w; ++i) {
        const int row = static_cast<int>(i / to_w % to_h) + dy;
        const int column = static_cast<int>(i % to_w) + dx;
        const bool inside = row >= 0 && row < (int)h && column >= 0 && column < (int)w;
        expected.push_back(inside ? x[(i / to_w / to_h * h + row) * w + column] : 0.0f);
    }
    Numbers made(expected.size());
    launch({planes * to_h, 1}, 32, [&] {
        of_planes::shift_f32(x.data(), h, w, dy, dx, to_h, to_w, made.data());
    });
    close(text("%d planes moved by %d, %d", planes, dy, dx), made, expected, 0.0);
}

// `part` pixels are a block's; one element at a time or four.
static void bias(unsigned batch, unsigned channels, unsigned pixels, unsigned part, bool four,
                 bool adds) {
    const unsigned planes = batch * channels, parts = (pixels + part - 1) / part, threads = 64;
    const size_t count = static_cast<size_t>(planes) * pixels;
    const Numbers x = noise(count), residual = noise(count), by = noise(channels);
    Exact expected(count), sums(channels);
    for (size_t i = 0; i < count; ++i) {
        const unsigned channel = i / pixels % channels;
        expected[i] = static_cast<double>(x[i]) + by[channel] + (adds ? residual[i] : 0.0f);
        sums[channel] += x[i];
    }
    Numbers made = x, partial(static_cast<size_t>(planes) * parts), made_sums(channels);
    launch({planes, parts}, threads, [&] {
        (four ? of_planes::add_bias_f32_4 : of_planes::add_bias_f32_1)(
            made.data(), by.data(), adds ? residual.data() : nullptr, channels, pixels, part);
    });
    launch({planes, parts}, threads, [&] {
        (four ? of_planes::plane_sums_f32_4 : of_planes::plane_sums_f32_1)(x.data(), pixels, part,
                                                                           partial.data());
    });
    launch({channels, 1}, threads, [&] {
        of_planes::channel_sums_f32(partial.data(), batch, channels, parts, made_sums.data());
    });
    const std::string of = text("bias of %d channels, %d pixels, four %d", channels, pixels, four);
    close(of, made, expected, 1e-6);
    close(of + ", back", made_sums, sums, 1e-5);
}

static void upsample(unsigned planes, unsigned h, unsigned w, bool adds) {
    const size_t count = static_cast<size_t>(planes) * h * w;
    const Numbers x = noise(count), dy = noise(4 * count), plus = noise(count);
    Exact expected(4 * count), back(count);
    for (size_t i = 0; i < 4 * count; ++i) {
        const size_t row = i / (2 * w), from = row / 2 * w + i % (2 * w) / 2;
        expected[i] = x[from];
        back[from] += dy[i];
    }
    for (size_t i = 0; i < count && adds; ++i) back[i] += plus[i];
    Numbers made(4 * count), made_back(count);
    launch({planes * h, 1}, 32, [&] { of_planes::upsample_f32(x.data(), w, made.data()); });
    launch({planes * h, 1}, 32, [&] {
        of_planes::upsample_gradient_f32(dy.data(), w, adds ? plus.data() : nullptr,
                                         made_back.data());
    });
    const std::string of = text("%d planes of %d by %d doubled", planes, h, w);
    close(of, made, expected, 0.0);
    close(of + ", back", made_back, back, 1e-6);
}

static void batch_norm(unsigned batch, unsigned channels, unsigned pixels, unsigned part, bool four,
                       bool adds) {
    const unsigned planes = batch * channels, parts = (pixels + part - 1) / part, threads = 64;
    const size_t count = static_cast<size_t>(planes) * pixels;
    const float eps = 1e-5f, slope = 0.2f, each = batch * pixels;
    const Numbers x = noise(count, 2.0f), dy = noise(count), plus = noise(count);
    const Numbers weight = noise(channels), shift = noise(channels);
    Exact y(count), dx(count), means(channels), variances(channels), dweight(channels);
    Exact dbias(channels);
    for (unsigned c = 0; c < channels; ++c) {
        auto all = [&](auto visit) {
            for (unsigned b = 0; b < batch; ++b)
                for (unsigned i = 0; i < pixels; ++i)
                    visit((static_cast<size_t>(b) * channels + c) * pixels + i);
        };
        all([&](size_t i) { means[c] += x[i] / each; });
        double squares = 0.0;
        all([&](size_t i) { squares += std::pow(x[i] - means[c], 2); });
        variances[c] = squares / (each - 1.0);
        const double scale = 1.0 / std::sqrt(squares / each + eps);
        auto normed = [&](size_t i) { return (x[i] - means[c]) * scale; };
        auto before = [&](size_t i) { return normed(i) * weight[c] + shift[c]; };
        auto passed = [&](size_t i) { return before(i) > 0.0 ? dy[i] : dy[i] * double(slope); };
        all([&](size_t i) {
            y[i] = before(i) > 0.0 ? before(i) : before(i) * slope;
            dweight[c] += passed(i) * normed(i);
            dbias[c] += passed(i);
        });
        all([&](size_t i) {
            const double along = dweight[c] / each, mean = dbias[c] / each;
            dx[i] = scale * weight[c] * (passed(i) - mean - normed(i) * along)
                + (adds ? plus[i] : 0.0f);
        });
    }

    std::vector<float2> partial(static_cast<size_t>(planes) * parts), stats(channels);
    Numbers made_means(channels), made_variances(channels), made(count), made_dx(count);
    Numbers made_dweight(channels), made_dbias(channels);
    launch({planes, parts}, threads, [&] {
        (four ? of_groups::group_moments_f32_4 : of_groups::group_moments_f32_1)(
            x.data(), pixels, part, partial.data());
    });
    launch({channels, 1}, threads, [&] {
        of_batches::batch_stats(partial.data(), batch, channels, pixels, parts, part, eps,
                                stats.data(), made_means.data(), made_variances.data());
    });
    launch({planes, parts}, threads, [&] {
        (four ? of_batches::batch_norm_apply_4 : of_batches::batch_norm_apply_1)(
            x.data(), weight.data(), shift.data(), stats.data(), channels, pixels, part, slope,
            made.data());
    });
    launch({planes, parts}, threads, [&] {
        (four ? of_batches::batch_norm_plane_sums_4 : of_batches::batch_norm_plane_sums_1)(
            x.data(), dy.data(), weight.data(), shift.data(), stats.data(), channels, pixels, part,
            slope, partial.data());
    });
    launch({channels, 1}, threads, [&] {
        of_batches::batch_parameters(partial.data(), batch, channels, parts, made_dweight.data(),
                                     made_dbias.data());
    });
    launch({planes, parts}, threads, [&] {
        (four ? of_batches::batch_norm_input_gradient_4 : of_batches::batch_norm_input_gradient_1)(
            x.data(), dy.data(), adds ? plus.data() : nullptr, weight.data(), shift.data(),
            stats.data(), made_dweight.data(), made_dbias.data(), channels, pixels, part, slope,
            each, made_dx.data());
    });
    const std::string of = text("batch norm of %d pictures, %d channels, %d pixels, four %d", batch,
                                channels, pixels, four);
    close(of, made, y, 1e-5);
    close(of + ", means", made_means, means, 1e-5);
    close(of + ", variances", made_variances, variances, 1e-5);
    close(of + ", weight", made_dweight, dweight, 1e-5);
    close(of + ", bias", made_dbias, dbias, 1e-5);
    close(of + ", input", made_dx, dx, 1e-5);
}

// Of more elements than a grid has threads.
#define ELEMENTS(SUFFIX, COUNT)                                                               \
    {                                                                                         \
        using namespace of_elements;                                                          \
        const uint64_t count = COUNT;                                                         \
        const float slope = 0.2f;                                                             \
        const Numbers a = noise(count, 3.0f), b = noise(count, 3.0f), dy = noise(count);      \
        Numbers made(count), other(count);                                                    \
        auto check = [&](const char *what, const Numbers &found, auto formula) {              \
            Exact expected;                                                                   \
            for (uint64_t i = 0; i < count; ++i)                                              \
                expected.push_back(formula((double)a[i], (double)b[i], (double)dy[i]));       \
            close(text("%s of %d elements", what, (int)count), found, expected, 2e-6);        \
        };                                                                                    \
        auto one = [&](auto kernel) {                                                         \
            launch({2, 1}, 32, [&] { kernel(a.data(), slope, count, made.data()); });         \
        };                                                                                    \
        auto two = [&](auto kernel, const Numbers &with) {                                    \
            launch({2, 1}, 32, [&] { kernel(a.data(), with.data(), slope, count, made.data()); }); \
        };                                                                                    \
        one(leaky_##SUFFIX);                                                                  \
        check("leaky", made, [](double a, double, double) { return a > 0 ? a : 0.2 * a; });   \
        two(leaky_back_##SUFFIX, dy);                                                         \
        check("leaky, back", made,                                                            \
              [](double a, double, double dy) { return a > 0 ? dy : 0.2 * dy; });             \
        one(gelu_##SUFFIX);                                                                   \
        check("gelu", made, [](double a, double, double) { return a * below(a); });           \
        two(gelu_back_##SUFFIX, dy);                                                          \
        check("gelu, back", made, [](double a, double, double dy) {                           \
            return dy * (below(a) + a * std::exp(-0.5 * a * a) / std::sqrt(2.0 * M_PI));      \
        });                                                                                   \
        two(gate_##SUFFIX, b);                                                                \
        check("gate", made, [](double a, double b, double) { return a * open(a) * b; });      \
        launch({2, 1}, 32, [&] {                                                              \
            gate_back_##SUFFIX(a.data(), b.data(), dy.data(), 0.0f, count, made.data(),       \
                               other.data());                                                 \
        });                                                                                   \
        check("gate, back", made, [](double a, double b, double dy) {                         \
            return dy * b * open(a) * (1.0 + a * (1.0 - open(a)));                            \
        });                                                                                   \
        check("gate, back to values", other,                                                  \
              [](double a, double, double dy) { return dy * a * open(a); });                  \
    }

static double below(double x) { return 0.5 * (1.0 + std::erf(x / std::sqrt(2.0))); }
static double open(double x) { return 1.0 / (1.0 + std::exp(-x)); }

int main(int count, char **) {
    backwards = count > 1;
    shift(2, 5, 7, -1, -2, 7, 50);
    shift(1, 9, 40, 2, 3, 6, 36);
    for (const bool four : {false, true}) {
        bias(2, 3, four ? 36 : 37, four ? 16 : 11, four, !four);
        bias(1, 2, 1100, 400, four, four);
        batch_norm(3, 2, four ? 40 : 41, four ? 16 : 15, four, true);
        batch_norm(2, 3, 600, 200, four, false);
        // More parts than threads.
        batch_norm(40, 1, 16, 8, four, true);
    }
    upsample(2, 3, 5, false);
    upsample(1, 2, 70, true);
    ELEMENTS(f32_1, 333)
    ELEMENTS(f32_4, 700)
    std::printf("digest %016llx\n", static_cast<unsigned long long>(digest));
    std::printf("%d cases, %d off\n", cases, failures);
    return failures == 0 ? 0 : 1;
}
