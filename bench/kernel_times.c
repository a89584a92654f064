/* Where a CUDA program's time on the device goes. The driver loads this library into any program:
 *
 *   cc -O2 -shared -fPIC bench/kernel_times.c -o libkernel_times.so -I CUDA/include -L CUDA/lib64 -lcupti
 *   CUDA_INJECTION64_PATH=$PWD/libkernel_times.so KERNEL_TIMES=table.txt PROGRAM ...
 *
 * At exit it writes, for each kernel and kind of copy, seconds, calls and microseconds a call, the longest first, and
 * the share of the time between the first and the last of them that the device was busy. */
#include <cupti.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_NAMES = 1024, BUFFER_BYTES = 4 << 20, NAME_BYTES = 200 };

typedef struct {
    char name[NAME_BYTES];
    uint64_t calls, nanoseconds;
} activity;

static activity seen[MOST_NAMES];
static size_t n_seen;
static uint64_t first_start = UINT64_MAX, last_end, busy;

static activity *find(const char *name) {
    for (size_t i = 0; i < n_seen; i++)
        if (strncmp(seen[i].name, name, NAME_BYTES - 1) == 0) return &seen[i];
    if (n_seen == MOST_NAMES) return &seen[MOST_NAMES - 1];
    snprintf(seen[n_seen].name, NAME_BYTES, "%s", name);
    return &seen[n_seen++];
}

/* Activities come in the order of their end, nearly; those of one stream do not overlap. */
static void count(const char *name, uint64_t start, uint64_t end) {
    activity *a = find(name);
    a->calls++;
    a->nanoseconds += end - start;
    if (start < first_start) first_start = start;
    if (end <= last_end) return;
    busy += end - (start > last_end ? start : last_end);
    last_end = end;
}

static void CUPTIAPI give_buffer(uint8_t **buffer, size_t *bytes, size_t *most_records) {
    *buffer = aligned_alloc(8, BUFFER_BYTES);
    *bytes = *buffer ? BUFFER_BYTES : 0;
    *most_records = 0;
}

static void CUPTIAPI take_buffer(CUcontext context, uint32_t stream, uint8_t *buffer, size_t bytes, size_t used) {
    CUpti_Activity *record = NULL;
    (void)context;
    (void)stream;
    (void)bytes;
    while (cuptiActivityGetNextRecord(buffer, used, &record) == CUPTI_SUCCESS) {
        if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
            const CUpti_ActivityKernel9 *kernel = (const CUpti_ActivityKernel9 *)(void *)record;
            count(kernel->name, kernel->start, kernel->end);
        } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
            const CUpti_ActivityMemcpy5 *copy = (const CUpti_ActivityMemcpy5 *)(void *)record;
            count(copy->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_HTOD   ? "(copy to the device)"
                  : copy->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_DTOH ? "(copy to the host)"
                                                                      : "(copy)",
                  copy->start, copy->end);
        } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
            const CUpti_ActivityMemset4 *set = (const CUpti_ActivityMemset4 *)(void *)record;
            count("(set)", set->start, set->end);
        }
    }
    free(buffer);
}

static int longest_first(const void *a, const void *b) {
    const activity *x = a, *y = b;
    return (x->nanoseconds < y->nanoseconds) - (x->nanoseconds > y->nanoseconds);
}

static void write_table(void) {
    const char *path = getenv("KERNEL_TIMES");
    (void)cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
    if (n_seen == 0) return;
    FILE *out = path ? fopen(path, "w") : stderr;
    if (!out) return;
    qsort(seen, n_seen, sizeof seen[0], longest_first);
    const double span = (double)(last_end - first_start) * 1e-9;
    fprintf(out, "%.3f s from the first to the last, the device busy %.3f s of them (%.1f %%)\n", span,
            (double)busy * 1e-9, 100.0 * (double)busy * 1e-9 / span);
    for (size_t i = 0; i < n_seen; i++)
        fprintf(out, "%10.4f s %9llu x %10.2f us  %s\n", (double)seen[i].nanoseconds * 1e-9,
                (unsigned long long)seen[i].calls, (double)seen[i].nanoseconds * 1e-3 / (double)seen[i].calls,
                seen[i].name);
    if (out != stderr) fclose(out);
}

int InitializeInjection(void);

/* Called by the driver when the program starts. */
int InitializeInjection(void) {
    static const CUpti_ActivityKind kinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY,
                                               CUPTI_ACTIVITY_KIND_MEMSET};
    if (cuptiActivityRegisterCallbacks(give_buffer, take_buffer) != CUPTI_SUCCESS) return 0;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (cuptiActivityEnable(kinds[i]) != CUPTI_SUCCESS) return 0;
    return atexit(write_table) == 0;
}
