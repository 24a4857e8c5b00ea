/* Preloaded into the service: has the system calls that it makes on its database files fail.
 *
 * The files are told by their path, which begins with STORE_FAULTS_FILE (the write-ahead log
 * and its index too). Which calls fail is read from the file STORE_FAULTS_CONTROL at each
 * call, see `Control`; the test writes there. SQLite calls the C library, so this is where
 * the kernel would have answered it. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { WRITE_FAILS, WRITE_IS_TORN, SYNC_FAILS, READ_FAILS, READ_ONLY, KINDS };

struct control {
    uint32_t kinds;          /* a bit for each kind that is on */
    uint32_t one_in;         /* every so many-th call fails */
    uint64_t hits[KINDS];    /* calls that failed by each */
};

static struct control *control;
static const char *database;
static uint64_t calls;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("STORE_FAULTS_CONTROL");
    database = getenv("STORE_FAULTS_FILE");
    if (!path || !database)
        return;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED)
        control = mapped;
}

static int of_database(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return strncmp(path, database, strlen(database)) == 0;
}

/* Whether this call on this descriptor is to fail by this kind. */
static int fails(int kind, int fd)
{
    if (!control || !(__atomic_load_n(&control->kinds, __ATOMIC_RELAXED) & (1u << kind)))
        return 0;
    int error = errno;
    int is = of_database(fd);
    errno = error;
    if (!is)
        return 0;
    /* A file system that is read-only is so at every call. */
    uint32_t one_in = kind == READ_ONLY ? 1 : __atomic_load_n(&control->one_in, __ATOMIC_RELAXED);
    if (one_in > 1 && __atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED) % one_in != 0)
        return 0;
    __atomic_fetch_add(&control->hits[kind], 1, __ATOMIC_RELAXED);
    return 1;
}

static int with(int error)
{
    errno = error;
    return -1;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* Half of a torn write is in the file when it fails. */
#define WRITES(name, parameters, whole, half) \
    ssize_t name parameters \
    { \
        REAL(name); \
        if (fails(READ_ONLY, fd)) \
            return with(EROFS); \
        if (fails(WRITE_FAILS, fd)) \
            return with(EIO); \
        if (count > 1 && fails(WRITE_IS_TORN, fd)) { \
            real half; \
            return with(EIO); \
        } \
        return real whole; \
    }

#define READS(name, parameters, arguments) \
    ssize_t name parameters \
    { \
        REAL(name); \
        return fails(READ_FAILS, fd) ? with(EIO) : real arguments; \
    }

#define CHANGES(name, kind, error, parameters, arguments) \
    int name parameters \
    { \
        REAL(name); \
        if (fails(READ_ONLY, fd)) \
            return with(EROFS); \
        return fails(kind, fd) ? with(error) : real arguments; \
    }

WRITES(write, (int fd, const void *from, size_t count), (fd, from, count), (fd, from, count / 2))
WRITES(pwrite, (int fd, const void *from, size_t count, off_t at), (fd, from, count, at),
       (fd, from, count / 2, at))
WRITES(pwrite64, (int fd, const void *from, size_t count, off64_t at), (fd, from, count, at),
       (fd, from, count / 2, at))
READS(read, (int fd, void *to, size_t count), (fd, to, count))
READS(pread, (int fd, void *to, size_t count, off_t at), (fd, to, count, at))
READS(pread64, (int fd, void *to, size_t count, off64_t at), (fd, to, count, at))
CHANGES(ftruncate, WRITE_FAILS, EIO, (int fd, off_t size), (fd, size))
CHANGES(ftruncate64, WRITE_FAILS, EIO, (int fd, off64_t size), (fd, size))
CHANGES(fsync, SYNC_FAILS, EIO, (int fd), (fd))
CHANGES(fdatasync, SYNC_FAILS, EIO, (int fd), (fd))
