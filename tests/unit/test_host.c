/* src/base/host: limits of control groups below a made-up root, of Slurm, and shares of CPUs. */
#include "base/host.h"
#include "base/output.h"
#include "base/text.h"

#include <setjmp.h>
#include <unistd.h>

#include <cmocka.h>

static char root[64];

static void put(const char *path, const char *text) {
    char name[512];
    lp_error err = {0};
    snprintf(name, sizeof name, "%s%s", root, path);
    assert_int_equal(lp_path_make_folder_for(name, &err), LP_OK);
    if (lp_output_write(name, text, strlen(text), LP_OUTPUT_OWN, &err) != LP_OK) fail_msg("%s", err.text);
}

#define V1_MOUNTS                                                                                                      \
    "30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"                                                       \
    "31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"                             \
    "32 30 0:28 %s /sys/fs/cgroup/memory rw,nosuid shared:7 - cgroup cgroup rw,memory\n"

typedef struct {
    const char *name;
    struct {
        const char *path, *text;
    } files[8];
    const char *slurm[3];
    int64_t memory; /* bytes; 0: none */
    double cpus;    /* 0: none */
} limits;

static const limits cases[] = {
    {"nothing there", {{"/etc/other", ""}}, {0}, 0, 0},
    {"version 2, a limit above the process's own group",
     {{"/proc/self/cgroup", "0::/slurm/job_1/step_0/task_0\n"},
      {"/proc/self/mountinfo", "25 20 0:22 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"},
      {"/sys/fs/cgroup/slurm/job_1/step_0/task_0/memory.max", "max\n"},
      {"/sys/fs/cgroup/slurm/job_1/step_0/memory.max", "8589934592\n"},
      {"/sys/fs/cgroup/slurm/job_1/memory.max", "4294967296\n"},
      {"/sys/fs/cgroup/slurm/memory.max", "max\n"},
      {"/sys/fs/cgroup/slurm/job_1/cpu.max", "250000 100000\n"},
      {"/sys/fs/cgroup/slurm/job_1/step_0/cpu.max", "max 100000\n"}},
     {0},
     INT64_C(4294967296),
     2.5},
    {"version 2 in a container: the group is the mount point",
     {{"/proc/self/cgroup", "0::/\n"},
      {"/proc/self/mountinfo", "25 20 0:22 /../.. /sys/fs/cgroup ro - cgroup2 cgroup rw\n"},
      {"/sys/fs/cgroup/memory.max", "1000000000\n"},
      {"/sys/fs/cgroup/cpu.max", "50000 100000\n"}},
     {0},
     1000000000,
     0.5},
    {"version 1, separate hierarchies",
     {{"/proc/self/cgroup", "9:memory:/slurm/uid_7/job_5\n4:cpu,cpuacct:/user\n0::/\n"},
      {"/proc/self/mountinfo", V1_MOUNTS},
      {"/sys/fs/cgroup/memory/slurm/uid_7/job_5/memory.limit_in_bytes", "9223372036854771712\n"},
      {"/sys/fs/cgroup/memory/slurm/uid_7/memory.limit_in_bytes", "3221225472\n"},
      {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/user/cpu.cfs_quota_us", "-1\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "400000\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"}},
     {0},
     INT64_C(3221225472),
     4},
    {"version 1 mounted from the container's own group",
     {{"/proc/self/cgroup", "9:memory:/docker/abc/inner\n"},
      {"/proc/self/mountinfo", "32 30 0:28 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"},
      {"/sys/fs/cgroup/memory/inner/memory.limit_in_bytes", "2000000000\n"},
      {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "1500000000\n"}},
     {0},
     1500000000,
     0},
    {"no limits are none",
     {{"/proc/self/cgroup", "9:memory:/a\n"},
      {"/proc/self/mountinfo", V1_MOUNTS},
      {"/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n"}},
     {0},
     0,
     0},
    {"damaged files",
     {{"/proc/self/cgroup", "::\n9\nx:memory\n0::"}, {"/proc/self/mountinfo", "1 2 - \n - cgroup2\n\n"}},
     {0},
     0,
     0},
    {"Slurm: memory of the node", {{"/etc/other", ""}}, {"2048", NULL, NULL}, INT64_C(2147483648), 0},
    {"Slurm: all of the node's", {{"/etc/other", ""}}, {"0", NULL, "8"}, 0, 0},
    {"Slurm: memory by CPUs", {{"/etc/other", ""}}, {NULL, "1024", "6"}, INT64_C(6442450944), 0},
    {"Slurm: nonsense", {{"/etc/other", ""}}, {"4G", "x", "-1"}, 0, 0},
    {"Slurm says more than the control group",
     {{"/proc/self/cgroup", "0::/j\n"},
      {"/proc/self/mountinfo", "25 20 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"},
      {"/sys/fs/cgroup/j/memory.max", "1073741824\n"}},
     {"2048", NULL, NULL},
     1073741824,
     0},
};

static void limits_are_found(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const limits *c = &cases[i];
        snprintf(root, sizeof root, "host.%ld.%zu", (long)getpid(), i);
        for (size_t k = 0; k < 8 && c->files[k].path; k++) {
            char text[1024];
            const char *percent = strstr(c->files[k].text, "%s");
            snprintf(text, sizeof text, "%.*s%s%s", percent ? (int)(percent - c->files[k].text) : 0, c->files[k].text,
                     percent ? "/" : "", percent ? percent + 2 : c->files[k].text);
            put(c->files[k].path, text);
        }
        lp_host_sources sources = {
            .root = root, .mem_per_node = c->slurm[0], .mem_per_cpu = c->slurm[1], .cpus_on_node = c->slurm[2]};
        int64_t expected = c->memory > 0 ? c->memory : INT64_MAX, found = lp_host_memory_limit(&sources);
        double cpus = lp_host_cpu_quota(&sources);
        if (found != expected || cpus != c->cpus)
            fail_msg("%s: expected %lld bytes and %g CPUs, found %lld and %g", c->name, (long long)expected, c->cpus,
                     (long long)found, cpus);
        char remove[96];
        snprintf(remove, sizeof remove, "rm -r '%s'", root);
        assert_int_equal(system(remove), 0);
    }
}

static void set_cpus(uint8_t *mask, int first, int last) {
    for (int c = first; c <= last; c++) mask[c / 8] |= (uint8_t)(1 << c % 8);
}

static void cpus_are_shared(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int32_t n;
        int cpus[4][2]; /* first and last of each rank */
        int32_t expected[4];
    } table[] = {
        {"one rank, all", 1, {{0, 63}}, {64}},
        {"bound to a core each", 4, {{0, 0}, {1, 1}, {2, 2}, {3, 3}}, {1, 1, 1, 1}},
        {"bound to a socket, two a socket", 4, {{0, 31}, {0, 31}, {32, 63}, {32, 63}}, {16, 16, 16, 16}},
        {"unbound", 3, {{0, 7}, {0, 7}, {0, 7}}, {2, 2, 2}},
        {"thirds add up", 3, {{0, 8}, {0, 8}, {0, 8}}, {3, 3, 3}},
        {"more ranks than CPUs", 4, {{0, 1}, {0, 1}, {0, 1}, {0, 1}}, {1, 1, 1, 1}},
        {"one bound, one not", 2, {{0, 3}, {0, 7}}, {2, 6}},
        {"large numbers", 2, {{4000, 4007}, {8184, 8191}}, {8, 8}},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        static uint8_t masks[4 * LP_CPU_MASK_BYTES];
        memset(masks, 0, sizeof masks);
        for (int32_t r = 0; r < table[i].n; r++)
            set_cpus(masks + (size_t)r * LP_CPU_MASK_BYTES, table[i].cpus[r][0], table[i].cpus[r][1]);
        for (int32_t r = 0; r < table[i].n; r++) {
            int32_t found = lp_host_cpu_share(masks, table[i].n, r);
            if (found != table[i].expected[r])
                fail_msg("%s: rank %d: expected %d, found %d", table[i].name, r, table[i].expected[r], found);
        }
    }
    static uint8_t none[LP_CPU_MASK_BYTES];
    assert_int_equal(lp_host_cpu_share(none, 1, 0), 1);
}

static void this_process_has_cpus(void **state) {
    (void)state;
    uint8_t mask[LP_CPU_MASK_BYTES];
    lp_host_cpu_mask(mask);
    int32_t n = lp_host_cpu_share(mask, 1, 0);
    assert_in_range(n, 1, (unsigned long)sysconf(_SC_NPROCESSORS_CONF));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(limits_are_found), cmocka_unit_test(cpus_are_shared),
                                       cmocka_unit_test(this_process_has_cpus)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
