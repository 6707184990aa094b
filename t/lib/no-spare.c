/* For LD_PRELOAD: malloc() refuses the size with which the module tests for spare memory (src/base/memory.rs). */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>

void *malloc(size_t size)
{
    static void *(*next)(size_t);

    if (next == NULL) {
        next = dlsym(RTLD_NEXT, "malloc");
    }

    return size == 4093 ? NULL : next(size);
}
