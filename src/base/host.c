#include "base/host.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/number.h"

#include <math.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

enum { SMALL_FILE = 1 << 20, NUMBER_FILE = 256 };

lp_host_sources lp_host_here(void) {
    return (lp_host_sources){.mem_per_node = getenv("SLURM_MEM_PER_NODE"),
                             .mem_per_cpu = getenv("SLURM_MEM_PER_CPU"),
                             .cpus_on_node = getenv("SLURM_CPUS_ON_NODE")};
}

/* ---- Control groups ---------------------------------------------------------------------------------------------- */

/* The whole of a file below the root; files of /proc and /sys have no size of their own. */
static bool read_below(const lp_host_sources *sources, const char *path, char *out, size_t size) {
    lp_text name = {0};
    bool good = lp_text_format(&name, NULL, "%s%s", sources->root ? sources->root : "", path) == LP_OK;
    FILE *file = good ? fopen(name.data, "re") : NULL;
    size_t n = file ? fread(out, 1, size - 1, file) : 0;
    good = file && !ferror(file);
    out[good ? n : 0] = '\0';
    if (file) fclose(file);
    lp_text_release(&name);
    return good;
}

/* Takes the next line of *text, without its end; NULL after the last. */
static char *next_line(char **text) {
    char *line = *text;
    if (!line || !*line) return NULL;
    char *end = strchr(line, '\n');
    if (end) *end = '\0';
    *text = end ? end + 1 : NULL;
    return line;
}

/* True where `word` is one of the comma-separated words of `list`. */
static bool has_word(const char *list, const char *word) {
    size_t length = strlen(word);
    for (const char *at = list; (at = strstr(at, word)) != NULL; at += length)
        if ((at == list || at[-1] == ',') && (at[length] == '\0' || at[length] == ',')) return true;
    return false;
}

/* What one hierarchy says: visit sees each group's folder, from the process's own up to the mount point. */
typedef struct {
    const lp_host_sources *sources;
    const char *controller; /* of version 1; "" for version 2 */
    void (*visit)(const lp_host_sources *sources, const char *folder, bool v2, double *limit);
    double *limit;
} group_walk;

/* Path of the process's group in the hierarchy, from /proc/self/cgroup: lines of id:controllers:path. */
static const char *group_of(const group_walk *walk, char *groups) {
    for (char *line; (line = next_line(&groups)) != NULL;) {
        char *controllers = strchr(line, ':');
        char *path = controllers ? strchr(++controllers, ':') : NULL;
        if (!path) continue;
        *path++ = '\0';
        if (*walk->controller ? has_word(controllers, walk->controller) : strncmp(line, "0:", 2) == 0) return path;
    }
    return NULL;
}

/* A mount: `root` of the hierarchy is seen at `point`. */
static void walk_up(const group_walk *walk, const char *root, const char *point, const char *group) {
    lp_text folder = {0};
    size_t skipped = strcmp(root, "/") == 0 ? 0 : strlen(root);
    /* A container may see its group by another name than the mount's: then the mount point is its group. */
    const char *below = strncmp(group, root, skipped) == 0 ? group + skipped : "";
    if (lp_text_format(&folder, NULL, "%s%s", point, strcmp(below, "/") == 0 ? "" : below) != LP_OK) return;
    size_t shortest = strlen(point);
    for (;;) {
        walk->visit(walk->sources, folder.data, !*walk->controller, walk->limit);
        char *slash = strrchr(folder.data + shortest, '/');
        if (!slash) break;
        *slash = '\0';
    }
    lp_text_release(&folder);
}

/* Every mount of the hierarchy, from /proc/self/mountinfo: id parent device root point options ... - type source
 * super-options. */
static void walk_mounts(const group_walk *walk, char *mounts, const char *group) {
    for (char *line; (line = next_line(&mounts)) != NULL;) {
        char *rest = strstr(line, " - ");
        char root[4096], point[4096], type[64], options[4096] = "";
        if (!rest || sscanf(line, "%*s %*s %*s %4095s %4095s", root, point) != 2) continue;
        if (sscanf(rest + 3, "%63s %*s %4095s", type, options) < 1) continue;
        bool wanted = *walk->controller ? strcmp(type, "cgroup") == 0 && has_word(options, walk->controller)
                                        : strcmp(type, "cgroup2") == 0;
        if (wanted) walk_up(walk, root, point, group);
    }
}

static void walk_groups(const group_walk *walk) {
    char *groups = NULL, *mounts = NULL;
    if (lp_mem_new(&groups, SMALL_FILE, 1, "control groups", NULL) == LP_OK &&
        lp_mem_new(&mounts, SMALL_FILE, 1, "mounts", NULL) == LP_OK &&
        read_below(walk->sources, "/proc/self/cgroup", groups, SMALL_FILE) &&
        read_below(walk->sources, "/proc/self/mountinfo", mounts, SMALL_FILE)) {
        const char *group = group_of(walk, groups);
        if (group) walk_mounts(walk, mounts, group);
    }
    lp_mem_free(groups);
    lp_mem_free(mounts);
}

static bool read_group(const lp_host_sources *sources, const char *folder, const char *name, char out[NUMBER_FILE]) {
    lp_text path = {0};
    bool good =
        lp_text_format(&path, NULL, "%s/%s", folder, name) == LP_OK && read_below(sources, path.data, out, NUMBER_FILE);
    lp_text_release(&path);
    return good;
}

static void least(double *limit, double value) {
    if (value > 0 && value < *limit) *limit = value;
}

/* "max" and values beyond any machine are not limits. */
static void visit_memory(const lp_host_sources *sources, const char *folder, bool v2, double *limit) {
    char text[NUMBER_FILE];
    double bytes = 0;
    if (read_group(sources, folder, v2 ? "memory.max" : "memory.limit_in_bytes", text) &&
        sscanf(text, "%lf", &bytes) == 1)
        least(limit, bytes);
}

static void visit_cpu(const lp_host_sources *sources, const char *folder, bool v2, double *limit) {
    char text[NUMBER_FILE], more[NUMBER_FILE];
    double quota = 0, period = 0;
    bool found = false;
    if (v2)
        found = read_group(sources, folder, "cpu.max", text) && sscanf(text, "%lf %lf", &quota, &period) == 2;
    else
        found = read_group(sources, folder, "cpu.cfs_quota_us", text) && sscanf(text, "%lf", &quota) == 1 &&
                read_group(sources, folder, "cpu.cfs_period_us", more) && sscanf(more, "%lf", &period) == 1;
    if (found && period > 0) least(limit, quota / period);
}

/* ---- Slurm ------------------------------------------------------------------------------------------------------- */

static double number_of(const char *text) {
    double value = 0;
    return text && lp_read_number(text, &value) && value > 0 ? value : 0;
}

static double slurm_bytes(const lp_host_sources *sources) {
    const double mib = 1048576;
    double node = number_of(sources->mem_per_node);
    return node > 0 ? node * mib : number_of(sources->mem_per_cpu) * number_of(sources->cpus_on_node) * mib;
}

int64_t lp_host_memory_limit(const lp_host_sources *sources) {
    double limit = INFINITY;
    group_walk walk = {.sources = sources, .controller = "memory", .visit = visit_memory, .limit = &limit};
    walk_groups(&walk);
    walk.controller = "";
    walk_groups(&walk);
    least(&limit, slurm_bytes(sources));
    return limit < 0x1p62 ? (int64_t)limit : INT64_MAX;
}

double lp_host_cpu_quota(const lp_host_sources *sources) {
    double limit = INFINITY;
    group_walk walk = {.sources = sources, .controller = "cpu", .visit = visit_cpu, .limit = &limit};
    walk_groups(&walk);
    walk.controller = "";
    walk_groups(&walk);
    return limit < INFINITY ? limit : 0;
}

lp_status lp_host_check_address_space(size_t bytes, const char *what, lp_error *err) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return LP_OK;
    void *probe = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (probe == MAP_FAILED)
        return lp_fail(
            err, LP_ERR_MEMORY,
            "the address space of a process is limited to %llu MiB (ulimit -v), which leaves less than the %zu "
            "MiB that %s needs",
            (unsigned long long)(limit.rlim_cur >> 20), bytes >> 20, what);
    munmap(probe, bytes);
    return LP_OK;
}

int64_t lp_host_memory(void) {
    int64_t pages = sysconf(_SC_PHYS_PAGES), bytes = sysconf(_SC_PAGE_SIZE);
    return pages > 0 && bytes > 0 ? pages * bytes : INT64_MAX;
}

/* ---- Affinity ---------------------------------------------------------------------------------------------------- */

void lp_host_cpu_mask(uint8_t mask[LP_CPU_MASK_BYTES]) {
    memset(mask, 0, LP_CPU_MASK_BYTES);
    cpu_set_t *set = CPU_ALLOC(8 * LP_CPU_MASK_BYTES);
    size_t size = CPU_ALLOC_SIZE(8 * LP_CPU_MASK_BYTES);
    bool known = set && sched_getaffinity(0, size, set) == 0;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    for (int c = 0; c < 8 * LP_CPU_MASK_BYTES; c++)
        if (known ? CPU_ISSET_S((size_t)c, size, set) : c < online) mask[c / 8] |= (uint8_t)(1 << c % 8);
    if (set) CPU_FREE(set);
}

int32_t lp_host_cpu_share(const uint8_t *masks, int32_t n, int32_t mine) {
    double share = 0;
    for (int c = 0; c < 8 * LP_CPU_MASK_BYTES; c++) {
        int users = 0;
        for (int32_t i = 0; i < n; i++) users += masks[(size_t)i * LP_CPU_MASK_BYTES + (size_t)c / 8] >> c % 8 & 1;
        if (masks[(size_t)mine * LP_CPU_MASK_BYTES + (size_t)c / 8] >> c % 8 & 1) share += 1.0 / users;
    }
    /* Sums of thirds fall short of whole numbers by their rounding. */
    int32_t whole = (int32_t)(share + 1e-6);
    return whole > 0 ? whole : 1;
}
