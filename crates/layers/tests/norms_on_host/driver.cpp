// The kernels of norms, against plain formulas. Says which cases are off, and how many there were.
// With an argument, threads take turns backwards.
#include "cuda_on_host.h"
// Before what includes it in a namespace of its own.
#include FILE_COMMON
namespace of_groups {
#include FILE_GROUPS
}
#undef KERNELS
namespace of_rows {
#include FILE_ROWS
}

#include "cases.h"

constexpr float EPS = 1e-5f;

// Of `count` numbers that share mean and variance (or only their mean square): what they are
// normed to; and on the way back, of gradients to that, what is left of them.
struct Normed {
    double mean = 0.0, scale = 0.0;
    Exact values;

    Normed(const float *x, size_t count, bool centred) : values(count) {
        for (size_t i = 0; i < count && centred; ++i) mean += x[i] / static_cast<double>(count);
        double squares = 0.0;
        for (size_t i = 0; i < count; ++i) squares += std::pow(x[i] - mean, 2) / count;
        scale = 1.0 / std::sqrt(squares + EPS);
        for (size_t i = 0; i < count; ++i) values[i] = (x[i] - mean) * scale;
    }

    Exact back(const Exact &gradients, bool centred) const {
        const double count = values.size();
        double all = 0.0, along = 0.0;
        for (size_t i = 0; i < values.size(); ++i) {
            all += centred ? gradients[i] / count : 0.0;
            along += gradients[i] * values[i] / count;
        }
        Exact dx(values.size());
        for (size_t i = 0; i < values.size(); ++i)
            dx[i] = scale * (gradients[i] - all - values[i] * along);
        return dx;
    }
};

// One element at a time or four.
#define PICK(NAME)                                                                            \
    (silu ? (four ? of_groups::group_norm_silu_##NAME##_f32_4                                 \
                  : of_groups::group_norm_silu_##NAME##_f32_1)                                \
          : (four ? of_groups::group_norm_##NAME##_f32_4 : of_groups::group_norm_##NAME##_f32_1))

// `part` elements are a block's.
static void group_norm(unsigned batch, unsigned channels, unsigned groups, unsigned pixels,
                       unsigned part, bool silu, bool four, bool adds) {
    const unsigned of_group = channels / groups, len = of_group * pixels, rows = batch * groups;
    const unsigned parts = (len + part - 1) / part, threads = 64;
    const size_t count = static_cast<size_t>(rows) * len;
    const Numbers x = noise(count, 2.0f), dy = noise(count), plus = noise(count);
    const Numbers weight = noise(channels), bias = noise(channels);
    Exact y(count), dx(count), dweight(channels), dbias(channels);
    for (unsigned row = 0; row < rows; ++row) {
        const size_t start = static_cast<size_t>(row) * len;
        const Normed normed(&x[start], len, true);
        Exact gradients(len);
        for (unsigned i = 0; i < len; ++i) {
            const unsigned channel = row % groups * of_group + i / pixels;
            const double z = normed.values[i] * weight[channel] + bias[channel];
            const double share = 1.0 / (1.0 + std::exp(-z));
            y[start + i] = silu ? z * share : z;
            const double dz = dy[start + i] * (silu ? share * (1.0 + z * (1.0 - share)) : 1.0);
            gradients[i] = dz * weight[channel];
            dweight[channel] += dz * normed.values[i];
            dbias[channel] += dz;
        }
        const Exact passed = normed.back(gradients, true);
        for (unsigned i = 0; i < len; ++i)
            dx[start + i] = passed[i] + (adds ? plus[start + i] : 0.0f);
    }

    std::vector<float2> partial(static_cast<size_t>(rows) * parts), stats(rows);
    Numbers made(count), made_dx(count), made_dweight(channels), made_dbias(channels);
    launch({rows, parts}, threads, [&] {
        (four ? of_groups::group_moments_f32_4 : of_groups::group_moments_f32_1)(
            x.data(), len, part, partial.data());
    });
    launch({rows, parts}, threads, [&] {
        PICK(apply)(x.data(), weight.data(), bias.data(), partial.data(), parts, part, len, pixels,
                    of_group, groups, EPS, stats.data(), made.data());
    });
    const unsigned plane_part = min(part, pixels), planes = batch * channels;
    const unsigned plane_parts = (pixels + plane_part - 1) / plane_part;
    std::vector<float2> sums(static_cast<size_t>(planes) * plane_parts), whole(planes);
    std::vector<float2> through(rows);
    launch({planes, plane_parts}, threads, [&] {
        PICK(plane_sums)(x.data(), dy.data(), weight.data(), bias.data(), stats.data(), pixels,
                         plane_part, of_group, channels, sums.data());
    });
    launch({rows, 1}, 32, [&] {
        of_groups::group_sums_f32(sums.data(), plane_parts, weight.data(), of_group, groups, len,
                                  whole.data(), through.data());
    });
    launch({(channels + 127) / 128, 1}, 128, [&] {
        of_groups::group_parameters_f32(whole.data(), batch, channels, made_dweight.data(),
                                        made_dbias.data());
    });
    launch({rows, parts}, threads, [&] {
        PICK(input_gradient)(x.data(), dy.data(), adds ? plus.data() : nullptr, weight.data(),
                             bias.data(), stats.data(), through.data(), part, len, pixels, of_group,
                             groups, made_dx.data());
    });
    const std::string of = text("%d pictures of %d channels, %d groups, %d pixels, SiLU %d, four %d",
                                batch, channels, groups, pixels, silu, four);
    close(of, made, y, 1e-5);
    close(of + ", input", made_dx, dx, 1e-5);
    close(of + ", weight", made_dweight, dweight, 1e-5);
    close(of + ", bias", made_dbias, dbias, 1e-5);
}

static void row_norm(unsigned rows, unsigned width, bool centred, bool adds) {
    const unsigned part = 3, parts = (rows + part - 1) / part, threads = 64;
    const size_t count = static_cast<size_t>(rows) * width;
    const Numbers x = noise(count, 2.0f), dy = noise(count), plus = noise(count);
    const Numbers weight = noise(width), bias = noise(width);
    Exact y(count), dx(count), dweight(width), dbias(width), sum(count);
    for (unsigned r = 0; r < rows; ++r) {
        const size_t start = static_cast<size_t>(r) * width;
        const Normed normed(&x[start], width, centred);
        Exact gradients(width);
        for (unsigned i = 0; i < width; ++i) {
            y[start + i] = normed.values[i] * weight[i] + (centred ? bias[i] : 0.0f);
            gradients[i] = static_cast<double>(dy[start + i]) * weight[i];
            dweight[i] += dy[start + i] * normed.values[i];
            dbias[i] += dy[start + i];
            sum[start + i] = static_cast<double>(x[start + i]) + bias[i]
                + (adds ? plus[start + i] : 0.0f);
        }
        const Exact passed = normed.back(gradients, centred);
        for (unsigned i = 0; i < width; ++i)
            dx[start + i] = passed[i] + (adds ? plus[start + i] : 0.0f);
    }

    std::vector<float2> stats(rows);
    Numbers made(count), made_dx(count), made_dweight(width), made_dbias(width), made_sum(count);
    launch({rows, 1}, threads, [&] {
        of_rows::row_norm_f32(x.data(), weight.data(), centred ? bias.data() : nullptr, width, EPS,
                              stats.data(), made.data());
    });
    const float *more = adds ? plus.data() : nullptr;
    launch({rows, 1}, threads, [&] {
        of_rows::row_norm_back_f32(x.data(), dy.data(), more, weight.data(), stats.data(), width,
                                   centred, made_dx.data());
    });
    Numbers sums(static_cast<size_t>(parts) * width), products(sums.size());
    const unsigned columns = (width + threads - 1) / threads;
    launch({columns, parts}, threads, [&] {
        of_rows::column_sums_f32(dy.data(), x.data(), stats.data(), rows, part, width, sums.data(),
                                 products.data());
    });
    for (const bool of_products : {false, true})
        launch({columns, 1}, threads, [&] {
            of_rows::sum_parts_f32((of_products ? products : sums).data(), parts, width,
                                   (of_products ? made_dweight : made_dbias).data());
        });
    launch({rows, columns}, threads, [&] {
        of_rows::add_row_f32(x.data(), bias.data(), more, width, made_sum.data());
    });
    const std::string of = text("%d rows of %d, centred %d", rows, width, centred);
    close(of, made, y, 1e-5);
    close(of + ", input", made_dx, dx, 1e-5);
    close(of + ", weight", made_dweight, dweight, 1e-5);
    close(of + ", bias", made_dbias, dbias, 1e-5);
    close(of + ", sum", made_sum, sum, 1e-6);
}

int main(int count, char **) {
    backwards = count > 1;
    for (const bool silu : {false, true}) {
        group_norm(1, 4, 2, 5, 7, silu, false, false);
        group_norm(2, 6, 3, 37, 64, silu, false, true);
        // More than a thread has at a time, and parts that are not full.
        group_norm(2, 4, 2, 1100, 2000, silu, false, true);
        group_norm(1, 8, 4, 36, 40, silu, true, false);
        group_norm(2, 4, 2, 1100, 1500, silu, true, true);
        group_norm(1, 160, 2, 4, 64, silu, true, false);
    }
    for (const bool centred : {false, true}) {
        row_norm(1, 3, centred, false);
        row_norm(7, 64, centred, true);
        row_norm(4, 700, centred, true);
    }
    std::printf("digest %016llx\n", static_cast<unsigned long long>(digest));
    std::printf("%d cases, %d off\n", cases, failures);
    return failures == 0 ? 0 : 1;
}
