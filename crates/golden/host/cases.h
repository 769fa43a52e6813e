// Numbers for cases, and how they came out. To be included behind what converts numbers.
#pragma once
#include "contexts.h"

using Numbers = std::vector<float>;
using Exact = std::vector<double>;
static int cases = 0, failures = 0;
// Of the bits of all that is close to what is expected.
static uint64_t digest = 0;

static double uniform() {
    static uint64_t state = 1;
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<double>(state >> 11) / 9007199254740992.0;
}

static Numbers noise(size_t count, float scale = 1.0f) {
    Numbers numbers(count);
    for (float &x : numbers) x = static_cast<float>(uniform() * 2.0 - 1.0) * scale;
    return numbers;
}

template <typename T> static std::vector<T> rounded(const Numbers &numbers) {
    std::vector<T> made;
    for (float x : numbers) made.push_back(from_float<T>(x));
    return made;
}
template <typename T> static Numbers widened(const std::vector<T> &numbers) {
    Numbers made;
    for (T x : numbers) made.push_back(to_float(x));
    return made;
}

static void expect(bool holds, const char *what) {
    ++cases;
    if (holds) return;
    ++failures;
    std::printf("off: %s\n", what);
}

template <typename... A> static std::string text(const char *format, A... arguments) {
    char line[200];
    std::snprintf(line, sizeof(line), format, arguments...);
    return line;
}

// Within `share` of the largest number that is expected.
static void close(const std::string &what, const Numbers &actual, const Exact &expected,
                  double share) {
    for (float x : actual) digest = (digest ^ std::bit_cast<uint32_t>(x)) * 1099511628211ull;
    double worst = 0.0, largest = 1e-9;
    for (size_t i = 0; i < expected.size(); ++i) {
        largest = std::max(largest, std::fabs(expected[i]));
        const double off = std::fabs(actual[i] - expected[i]);
        worst = std::isfinite(actual[i]) ? std::max(worst, off) : 1e30;
    }
    const bool fits = actual.size() == expected.size() && worst <= share * largest;
    expect(fits, text("%s, by %g of %g", what.c_str(), worst, largest).c_str());
}
