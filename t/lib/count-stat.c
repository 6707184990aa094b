/* For LD_PRELOAD: adds a byte to the file that the environment variable COUNT_STAT names each time a process opens a
 * /proc/PID/stat. (It is read before nginx clears its environment.) */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int counter = -1;

__attribute__((constructor)) static void prepare(void)
{
    const char *path = getenv("COUNT_STAT");

    if (path != NULL) {
        counter = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    }
}

static void count(const char *path)
{
    size_t length = strlen(path);

    if (length > 5 && strncmp(path, "/proc/", 6) == 0 && strcmp(path + length - 5, "/stat") == 0
        && write(counter, "x", 1) == -1)
    {
        abort();
    }
}

#define COUNTED(name)                                                                  \
    int name(const char *path, int flags, ...)                                         \
    {                                                                                  \
        static int (*next)(const char *, int, ...);                                    \
        va_list more;                                                                  \
        int mode;                                                                      \
                                                                                       \
        if (next == NULL) {                                                            \
            next = dlsym(RTLD_NEXT, #name);                                            \
        }                                                                              \
        va_start(more, flags);                                                         \
        mode = va_arg(more, int);                                                      \
        va_end(more);                                                                  \
        if (counter != -1) {                                                           \
            count(path);                                                               \
        }                                                                              \
        return next(path, flags, mode);                                                \
    }

COUNTED(open)
COUNTED(open64)
