/* What two CPUs can do for each other, whatever switches between them.
 *
 *   machine placement CPU CPU           nanoseconds in which a cache line goes to the other CPU and back, median
 *   machine copy CPU CPU SIZE SECONDS   million frames a second: the first CPU writes frames' first bytes and reads those
 *                                       of the copies, the second copies each frame once
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RING = 1024, BURST = 32, HEAD = 64, PROBES = 2000, TRIPS = 100 };

/* Each index has cache lines of its own. */
static struct { _Alignas(128) atomic_ulong at; } made, copied, line;
static _Alignas(128) atomic_int ended;
static char *from, *to;
static size_t size, stride;
static int other_cpu;

static void pin(int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof set, &set)) {
		perror("machine: no such CPU");
		exit(1);
	}
}

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void *answer(void *unused)
{
	pin(other_cpu);
	for (unsigned long next = 1; !ended;)
		if (atomic_load_explicit(&line.at, memory_order_acquire) == next) {
			atomic_store_explicit(&line.at, next + 1, memory_order_release);
			next += 2;
		}
	return unused;
}

static int compare(const void *x, const void *y)
{
	double a = *(double *)x, b = *(double *)y;
	return (a > b) - (a < b);
}

static double placement(void)
{
	static double times[PROBES];
	unsigned long at = 0;
	int count = 0;
	for (double until = now() + 0.02; count < PROBES && now() < until; count++) {
		double start = now();
		for (int i = 0; i < TRIPS; i++, at += 2) {
			atomic_store_explicit(&line.at, at + 1, memory_order_release);
			while (atomic_load_explicit(&line.at, memory_order_acquire) != at + 2)
				;
		}
		times[count] = (now() - start) * 1e9 / TRIPS;
	}
	qsort(times, count, sizeof *times, compare);
	return times[count / 2];
}

static void *copy(void *unused)
{
	pin(other_cpu);
	for (unsigned long done = 0; !ended;) {
		unsigned long until = atomic_load_explicit(&made.at, memory_order_acquire);
		if (until - done > BURST)
			until = done + BURST;
		for (unsigned long i = done; i < until; i++)
			memcpy(to + i % RING * stride, from + i % RING * stride, size);
		if (until != done)
			atomic_store_explicit(&copied.at, done = until, memory_order_release);
	}
	return unused;
}

static double copies(double seconds)
{
	unsigned long sent = 0, read = 0, sum = 0;
	double start = now(), time;
	do {
		for (int rounds = 0; rounds < 256; rounds++) {
			unsigned long until = read + RING - sent > BURST ? sent + BURST : read + RING;
			for (; sent < until; sent++)
				memset(from + sent % RING * stride, (int)sent, HEAD);
			atomic_store_explicit(&made.at, sent, memory_order_release);
			for (until = atomic_load_explicit(&copied.at, memory_order_acquire); read < until; read++)
				sum += *(unsigned long *)(to + read % RING * stride);
		}
		time = now() - start;
	} while (time < seconds);
	__asm__ volatile("" : : "r"(sum));
	return read / time / 1e6;
}

int main(int argc, char **argv)
{
	int copying = argc == 6 && !strcmp(argv[1], "copy");
	if (!copying && !(argc == 4 && !strcmp(argv[1], "placement"))) {
		fprintf(stderr, "usage: machine placement CPU CPU | copy CPU CPU SIZE SECONDS\n");
		return 2;
	}
	pthread_t thread;
	pin(atoi(argv[2]));
	other_cpu = atoi(argv[3]);
	if (copying) {
		size = atoi(argv[4]);
		stride = (size + 2047) / 2048 * 2048;
		from = aligned_alloc(4096, RING * stride);
		to = aligned_alloc(4096, RING * stride);
		if (!from || !to)
			return 1;
		memset(from, 1, RING * stride);
		memset(to, 1, RING * stride);
	}
	if (pthread_create(&thread, NULL, copying ? copy : answer, NULL))
		return 1;
	printf("%.3f\n", copying ? copies(atof(argv[5])) : placement());
	/* The other thread may wait for a line that nobody writes any more. */
	ended = 1;
	pthread_join(thread, NULL);
	return 0;
}
