/*
 * test/faults/nospace.c
 *
 * A disk that is full, preloaded into a server.  While the file that JOBSTATE_NOSPACE names exists, no
 * file below "base" or "pg_tblspc" grows and none comes into being there: ENOSPC, as from the kernel.
 * What is written in place goes on.  The file holds a number: so many times each process still gets space;
 * and perhaps a word: then it is about those processes only in whose title that stands.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* Does the title that "ps" shows hold this? */
static int
is_called(const char *wanted)
{
	char		title[256] = "";
	FILE	   *file = fopen("/proc/self/cmdline", "r");

	if (file != NULL)
	{
		size_t		size = fread(title, 1, sizeof(title) - 1, file);

		title[size] = '\0';
		fclose(file);
	}
	return strstr(title, wanted) != NULL;
}

/* Is there nothing left for this process? */
static int
is_full(void)
{
	static struct timespec seen;
	static int	left;
	static char whom[64];
	const char *marker = getenv("JOBSTATE_NOSPACE");
	struct stat status;
	FILE	   *file;

	if (marker == NULL || stat(marker, &status) != 0)
		return 0;
	if (status.st_mtim.tv_sec != seen.tv_sec || status.st_mtim.tv_nsec != seen.tv_nsec)
	{
		seen = status.st_mtim;
		left = 0;
		whom[0] = '\0';
		file = fopen(marker, "r");
		if (file != NULL)
		{
			if (fscanf(file, "%d %63[^\n]", &left, whom) < 1)
				left = 0;
			fclose(file);
		}
	}
	return is_called(whom) && left-- <= 0;
}

static int
holds_relations(const char *path)
{
	return strstr(path, "base/") != NULL || strstr(path, "pg_tblspc/") != NULL;
}

/* Would writing so far make a relation's file grow, in vain? */
static int
refused(int fd, off_t end)
{
	char		link[64];
	char		path[1024];
	struct stat status;
	ssize_t		length;

	if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) || end <= status.st_size)
		return 0;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, path, sizeof(path) - 1);
	if (length <= 0)
		return 0;
	path[length] = '\0';
	return holds_relations(path) && is_full();
}

static int
no_space(void)
{
	errno = ENOSPC;
	return -1;
}

static size_t
total(const struct iovec *iov, int n)
{
	size_t		size = 0;

	while (n-- > 0)
		size += iov[n].iov_len;
	return size;
}

#define REAL(type, name, ...) \
	static type(*real) (__VA_ARGS__) = NULL; \
	if (real == NULL) \
		real = (type(*) (__VA_ARGS__)) dlsym(RTLD_NEXT, name)

#define PWRITE(name) \
ssize_t \
name(int fd, const void *buffer, size_t size, off_t offset) \
{ \
	REAL(ssize_t, #name, int, const void *, size_t, off_t); \
	return refused(fd, offset + size) ? no_space() : real(fd, buffer, size, offset); \
}

#define PWRITEV(name) \
ssize_t \
name(int fd, const struct iovec *iov, int n, off_t offset) \
{ \
	REAL(ssize_t, #name, int, const struct iovec *, int, off_t); \
	return refused(fd, offset + total(iov, n)) ? no_space() : real(fd, iov, n, offset); \
}

#define FALLOCATE(name) \
int \
name(int fd, off_t offset, off_t size) \
{ \
	REAL(int, #name, int, off_t, off_t); \
	return refused(fd, offset + size) ? ENOSPC : real(fd, offset, size); \
}

#define OPEN(name) \
int \
name(const char *path, int flags, ...) \
{ \
	va_list		arguments; \
	int			mode; \
	REAL(int, #name, const char *, int, ...); \
	va_start(arguments, flags); \
	mode = (flags & O_CREAT) ? va_arg(arguments, int) : 0; \
	va_end(arguments); \
	if ((flags & O_CREAT) && holds_relations(path) && access(path, F_OK) != 0 && is_full()) \
		return no_space(); \
	return real(path, flags, mode); \
}

PWRITE(pwrite)
PWRITE(pwrite64)
PWRITEV(pwritev)
PWRITEV(pwritev64)
FALLOCATE(posix_fallocate)
FALLOCATE(posix_fallocate64)
OPEN(open)
OPEN(open64)
