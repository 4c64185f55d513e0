/* A disk that fails: of the calls of one kind on paths below a folder, the Nth ends with an error.

   It is loaded before the C library (LD_PRELOAD), and does nothing until it is armed. A kind is the
   name of a call without its variants: "open" is open, open64, openat and openat64. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[4096], kind[32];
static long moment, many;
static int number;
static atomic_long calls;

/* Let so many calls fail from that moment on; 0: none, but count. */
void arm(const char *below, const char *which, long nth, int error, long in_a_row) {
    snprintf(folder, sizeof folder, "%s", below);
    snprintf(kind, sizeof kind, "%s", which);
    moment = nth;
    number = error;
    many = in_a_row;
    atomic_store(&calls, 0);
}

/* How many calls there were since. */
long counted(void) { return atomic_load(&calls); }

static int is_below(const char *path) {
    size_t n = strlen(folder);
    return path && !strncmp(path, folder, n) && (path[n] == '/' || !path[n]);
}

static int is_due(const char *which) {
    if (strcmp(kind, which))
        return 0;
    long call = atomic_fetch_add(&calls, 1) + 1;
    return moment && call >= moment && call < moment + many;
}

static int path_fails(const char *which, const char *path) {
    return *kind && is_below(path) && is_due(which);
}

static int fd_fails(const char *which, int fd) {
    char link[64], path[4096];
    if (!*kind || strcmp(kind, which))
        return 0;
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    errno = before;
    path[n < 0 ? 0 : n] = 0;
    return is_below(path) && is_due(which);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL return errno = number, -1

#define MODE                                                                                       \
    va_list args;                                                                                  \
    va_start(args, flags);                                                                         \
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(args, int) : 0;                              \
    va_end(args)

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...) {                                                   \
        MODE;                                                                                      \
        if (path_fails("open", path))                                                              \
            FAIL;                                                                                  \
        return REAL(name)(path, flags, mode);                                                      \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                               \
    int name(int at, const char *path, int flags, ...) {                                           \
        MODE;                                                                                      \
        if (path_fails("open", path))                                                              \
            FAIL;                                                                                  \
        return REAL(name)(at, path, flags, mode);                                                  \
    }
OPENAT(openat)
OPENAT(openat64)

#define ON_FD(type, name, which, parameters, arguments)                                            \
    type name parameters {                                                                         \
        if (fd_fails(which, fd))                                                                   \
            FAIL;                                                                                  \
        return REAL(name) arguments;                                                               \
    }
ON_FD(ssize_t, read, "read", (int fd, void *to, size_t n), (fd, to, n))
ON_FD(ssize_t, pread, "read", (int fd, void *to, size_t n, off_t at), (fd, to, n, at))
ON_FD(ssize_t, pread64, "read", (int fd, void *to, size_t n, off64_t at), (fd, to, n, at))
ON_FD(ssize_t, preadv, "read", (int fd, const struct iovec *v, int n, off_t at), (fd, v, n, at))
ON_FD(ssize_t, preadv64, "read", (int fd, const struct iovec *v, int n, off64_t at),
      (fd, v, n, at))
ON_FD(ssize_t, preadv64v2, "read", (int fd, const struct iovec *v, int n, off64_t at, int f),
      (fd, v, n, at, f))
ON_FD(ssize_t, write, "write", (int fd, const void *from, size_t n), (fd, from, n))
ON_FD(ssize_t, writev, "write", (int fd, const struct iovec *v, int n), (fd, v, n))
ON_FD(ssize_t, pwrite, "write", (int fd, const void *from, size_t n, off_t at), (fd, from, n, at))
ON_FD(ssize_t, pwrite64, "write", (int fd, const void *from, size_t n, off64_t at),
      (fd, from, n, at))
ON_FD(ssize_t, pwritev, "write", (int fd, const struct iovec *v, int n, off_t at), (fd, v, n, at))
ON_FD(ssize_t, pwritev64, "write", (int fd, const struct iovec *v, int n, off64_t at),
      (fd, v, n, at))
ON_FD(ssize_t, pwritev64v2, "write", (int fd, const struct iovec *v, int n, off64_t at, int f),
      (fd, v, n, at, f))
ON_FD(ssize_t, copy_file_range,
      "write", (int in, off64_t *a, int fd, off64_t *b, size_t n, unsigned f), (in, a, fd, b, n, f))
ON_FD(int, fsync, "fsync", (int fd), (fd))
ON_FD(int, fdatasync, "fsync", (int fd), (fd))
ON_FD(int, ftruncate, "ftruncate", (int fd, off_t n), (fd, n))
ON_FD(int, ftruncate64, "ftruncate", (int fd, off64_t n), (fd, n))
ON_FD(int, fallocate, "fallocate", (int fd, int mode, off_t at, off_t n), (fd, mode, at, n))
ON_FD(int, fallocate64, "fallocate", (int fd, int mode, off64_t at, off64_t n), (fd, mode, at, n))

/* These return the error. */
#define ALLOCATE(name, offset)                                                                     \
    int name(int fd, offset at, offset n) {                                                        \
        return fd_fails("fallocate", fd) ? number : REAL(name)(fd, at, n);                         \
    }
ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)

/* The descriptor is gone even so, as Linux has it. */
int close(int fd) {
    int fails = fd_fails("close", fd), result = REAL(close)(fd);
    if (fails)
        FAIL;
    return result;
}

int rename(const char *old, const char *new) {
    if (path_fails("rename", new))
        FAIL;
    return REAL(rename)(old, new);
}

int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
    if (path_fails("rename", new))
        FAIL;
    return REAL(renameat2)(from, old, to, new, flags);
}

int renameat(int from, const char *old, int to, const char *new) {
    if (path_fails("rename", new))
        FAIL;
    return REAL(renameat)(from, old, to, new);
}
