/* measure: runs a command and tells how long it took, and the most memory that it had.

       measure OUT COMMAND [ARGUMENTS]      writes "SECONDS KIBIBYTES" to OUT; exits as the command does */

#if !defined(_DEFAULT_SOURCE)
#define _DEFAULT_SOURCE 1
#endif

#include <stdio.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

static double now(void)
{
    struct timeval t;
    gettimeofday(&t, NULL);
    return (double)t.tv_sec + 1e-6 * (double)t.tv_usec;
}

int main(int argc, char **argv)
{
    struct rusage used;
    const double start = now();
    double seconds;
    int status = 0;
    long kib;
    pid_t child;
    FILE *out;
    if (argc < 3) {
        fprintf(stderr, "usage: measure OUT COMMAND [ARGUMENTS]\n");
        return 2;
    }
    child = fork();
    if (child == 0) {
        execvp(argv[2], argv + 2);
        perror(argv[2]);
        _exit(127);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || getrusage(RUSAGE_CHILDREN, &used) != 0) {
        perror("measure");
        return 2;
    }
    seconds = now() - start;
    kib = used.ru_maxrss;
#if defined(__APPLE__)
    kib /= 1024;                                         /* bytes there */
#endif
    out = fopen(argv[1], "w");
    if (!out || fprintf(out, "%.2f %ld\n", seconds, kib) < 0 || fclose(out) != 0) {
        perror(argv[1]);
        return 2;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
