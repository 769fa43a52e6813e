#include "contexts_probe.h"
