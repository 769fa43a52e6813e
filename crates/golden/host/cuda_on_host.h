// For kernels that need no more.
#pragma once
#include "contexts.h"
