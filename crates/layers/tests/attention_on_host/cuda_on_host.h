#include "contexts.h"
