// The folder's own, or else the one beside this.
#include <cuda_on_host.h>
