#include "segment.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "bootstrap.h"

#define SIZE_SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

static int map(gpud_segment *segment, void *address, int writable, int prefault)
{
  int flags = MAP_SHARED | (address ? MAP_FIXED : 0) | (prefault ? MAP_POPULATE : 0);
  void *base = mmap(address, segment->size, PROT_READ | (writable ? PROT_WRITE : 0), flags, segment->fd, 0);
  if (base == MAP_FAILED)
    return -errno;
  segment->base = base;
  return 0;
}

int gpud_segment_create(gpud_segment *segment, const char *name, size_t size, int prefault)
{
  *segment = (gpud_segment){.fd = -1, .size = size};
  segment->fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (segment->fd < 0)
    return -errno;
  int rc = 0;
  if (ftruncate(segment->fd, (off_t)size) != 0 || fcntl(segment->fd, F_ADD_SEALS, SIZE_SEALS | F_SEAL_SEAL) != 0)
    rc = -errno;
  if (rc == 0)
    rc = map(segment, NULL, 1, prefault);
  if (rc != 0) {
    close(segment->fd);
    segment->fd = -1;
  }
  return rc;
}

/* Whether every page of the file can be touched for good: its size is sealed, and it is of shmem, not of a pool that may run dry. */
static int check(int fd, size_t size)
{
  struct stat st;
  struct statfs fs;
  int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & SIZE_SEALS) != SIZE_SEALS)
    return -EPERM;
  if (fstat(fd, &st) != 0 || fstatfs(fd, &fs) != 0)
    return -errno;
  if (fs.f_type != TMPFS_MAGIC || st.st_size < 0 || (uint64_t)st.st_size != size || size == 0)
    return -EPERM;
  return 0;
}

int gpud_segment_open(gpud_segment *segment, int fd, size_t size, void *address, int writable)
{
  *segment = (gpud_segment){.fd = fd, .size = size};
  int rc = check(fd, size);
  if (rc == 0) {
    rc = map(segment, address, writable, 0);
    if (rc != 0 && address)
      mmap(address, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  }
  if (rc != 0) {
    gpud_bootstrap_discard(fd);
    segment->fd = -1;
  }
  return rc;
}

void gpud_segment_close(gpud_segment *segment, int keep_reservation)
{
  if (segment->base) {
    if (keep_reservation)
      mmap(segment->base, segment->size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    else
      munmap(segment->base, segment->size);
  }
  if (segment->fd >= 0)
    close(segment->fd);
  *segment = (gpud_segment){.fd = -1};
}
