/* log.h: one line per event on stderr, as name=value pairs; never waits.

   A server is often started by a program that opens pipes for its output and then forgets to read them. Such a pipe
   takes 64 KiB and then makes a writer wait for ever. So a line is written only if the system says that it fits;
   otherwise it is dropped, and the next line that gets through tells how many were. */
#ifndef SERVER_LOG_H
#define SERVER_LOG_H

#include <poll.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "tools/cli.h"

enum { LOG_LINE = 1024 };            /* bytes; a pipe that polls writable has room for PIPE_BUF (4096, POSIX: >= 512) */

static struct {
    pthread_mutex_t lock;
    int off;                         /* 1: --log-disable */
    int verbose;                     /* 1: also what is of interest only while looking for a fault */
    uint64_t dropped, dropped_before;          /* lines in all; of these, told of already */
} logger = {PTHREAD_MUTEX_INITIALIZER, 0, 0, 0, 0};

/* 1 if all of it went out. Held under a lock, because two threads that both saw room might fill it together. */
static int write_if_room(int fd, const char *line, size_t size)
{
    struct pollfd p;
    p.fd = fd;
    p.events = POLLOUT;
    p.revents = 0;
    return poll(&p, 1, 0) == 1 && (p.revents & POLLOUT) && write(fd, line, size) == (ssize_t)size;
}

/* "2026-01-31T12:00:00Z event=NAME ..." Values must not hold spaces or line ends unless in quotes. */
CLI_PRINTF(2, 3) static void log_line(const char *event, const char *format, ...)
{
    char line[LOG_LINE];
    const time_t now = time(NULL);
    struct tm utc;
    size_t n;
    va_list args;
    if (logger.off) return;
    gmtime_r(&now, &utc);
    n = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%SZ", &utc);
    n += (size_t)snprintf(line + n, 64, " event=%s ", event);
    va_start(args, format);
    n += (size_t)vsnprintf(line + n, sizeof line - 64 - n, format, args);
    va_end(args);
    if (n > sizeof line - 64) n = sizeof line - 64;      /* cut: the rest is room for what follows */
    pthread_mutex_lock(&logger.lock);
    if (logger.dropped > logger.dropped_before)
        n += (size_t)snprintf(line + n, 48, " dropped=%" PRIu64, logger.dropped - logger.dropped_before);
    line[n++] = '\n';
    if (write_if_room(STDERR_FILENO, line, n)) logger.dropped_before = logger.dropped;
    else logger.dropped++;
    pthread_mutex_unlock(&logger.lock);
}

static uint64_t log_dropped(void)
{
    uint64_t n;
    pthread_mutex_lock(&logger.lock);
    n = logger.dropped;
    pthread_mutex_unlock(&logger.lock);
    return n;
}

#endif /* SERVER_LOG_H */
