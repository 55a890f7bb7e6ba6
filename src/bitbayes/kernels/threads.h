/* Threads for the loops of this folder. Python gives the addresses of the functions that start them
   (`bitbayes/kernels/threads.py`), so that a library needs nothing but libc and libm, and shares the threads that torch
   has: two pools would contend for the same processors. Without any address the caller does all the work. */

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

enum { MOST_THREADS = 512 };

static void (*openmp_parallel)(void (*)(void *), void *, unsigned, unsigned); /* GOMP_parallel */
static int (*openmp_number)(void), (*openmp_size)(void);
static int (*posix_create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
static int (*posix_join)(pthread_t, void **);

/* Tells where the functions are: three of OpenMP, two of POSIX threads; 0 for those that do not exist here. */
void bitbayes_threads(const int64_t *address) {
    openmp_parallel = (void (*)(void (*)(void *), void *, unsigned, unsigned))(intptr_t)address[0];
    openmp_number = (int (*)(void))(intptr_t)address[1];
    openmp_size = (int (*)(void))(intptr_t)address[2];
    posix_create =
        (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))(intptr_t)address[3];
    posix_join = (int (*)(pthread_t, void **))(intptr_t)address[4];
}

/* Part `part` of `parts` of a loop. Which parts there are changes no result. */
typedef void work(const void *loop, int64_t part, int64_t parts);

typedef struct {
    work *of;
    const void *loop;
    int64_t part, parts;
} task;

static void openmp_task(void *given) {
    const task *mine = given;
    mine->of(mine->loop, openmp_number(), openmp_size());
}

static void *posix_task(void *given) {
    const task *mine = given;
    mine->of(mine->loop, mine->part, mine->parts);
    return NULL;
}

static void posix_parallel(work *of, const void *loop, int threads) {
    pthread_t started[MOST_THREADS];
    task tasks[MOST_THREADS];
    int count = 1; /* the caller takes part 0, and every part that got no thread */
    for (; count < threads; count++) {
        tasks[count] = (task){of, loop, count, threads};
        if (posix_create(&started[count], NULL, posix_task, &tasks[count])) break;
    }
    of(loop, 0, threads);
    for (int part = count; part < threads; part++) of(loop, part, threads);
    for (int part = 1; part < count; part++) posix_join(started[part], NULL);
}

/* Does all parts of a loop, each once, and returns when all are done. */
static void in_parallel(work *of, const void *loop, int64_t wanted) {
    int threads = wanted < MOST_THREADS ? (int)wanted : MOST_THREADS;
    task whole = {of, loop, 0, 1};
    if (threads > 1 && openmp_parallel)
        openmp_parallel(openmp_task, &whole, (unsigned)threads, 0);
    else if (threads > 1 && posix_create)
        posix_parallel(of, loop, threads);
    else
        of(loop, 0, 1);
}

/* Where a part of `count` equal steps begins; it ends where the next one begins. */
static inline int64_t beginning(int64_t count, int64_t part, int64_t parts) {
    int64_t each = count / parts, more = count % parts;
    return part * each + (part < more ? part : more);
}
