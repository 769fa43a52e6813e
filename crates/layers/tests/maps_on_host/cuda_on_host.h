#pragma once
#include "contexts.h"

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
