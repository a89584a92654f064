#include "backend/device.h"

#include "backend/cuda/open.h"
#include "base/build.h"
#include "base/log.h"

#include <dlfcn.h>
#include <limits.h>
#include <unistd.h>

static const char *const dtype_names[] = {"fp32", "tf32", "bf16", "fp32-simt", "fp32-tc"};

/* What "fp32" is on a GPU: the ordinary units' until tensor cores were measured to be no less exact. */
enum { FP32_ON_GPU = LP_CUDA_FP32 };

static lp_cuda_dtype cuda_dtype(lp_dtype_use dtype) {
    switch (dtype) {
    case LP_USE_TF32: return LP_CUDA_TF32;
    case LP_USE_BF16: return LP_CUDA_BF16;
    case LP_USE_FP32_SIMT: return LP_CUDA_FP32;
    case LP_USE_FP32_TC: return LP_CUDA_FP32_SPLIT;
    default: return (lp_cuda_dtype)FP32_ON_GPU;
    }
}

/* The folder of the running executable; empty where it cannot be found out. */
static void own_folder(char out[PATH_MAX]) {
    ssize_t n = readlink("/proc/self/exe", out, PATH_MAX - 1);
    out[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(out, '/');
    if (slash) *slash = '\0';
}

/* The module, or NULL with the reason in why. A file that is there but cannot be loaded ends the search: its own
 * message is the useful one. It stays loaded until the process ends, as CUDA's libraries want it. */
static void *load_module(char *why, size_t why_bytes, bool *broken) {
    char folder[PATH_MAX], path[PATH_MAX + 64];
    own_folder(folder);
    static const char *const places[] = {"", "/../lib/latentpatch"};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        snprintf(path, sizeof path, "%s%s/%s", folder, places[i], LP_CUDA_MODULE);
        if (access(path, F_OK) != 0) continue;
        void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        const char *error = module ? NULL : dlerror();
        if (!module) {
            snprintf(why, why_bytes, "the CUDA backend cannot be loaded: %.900s", error ? error : path);
            *broken = true;
        }
        return module;
    }
    void *module = dlopen(LP_CUDA_MODULE, RTLD_NOW | RTLD_LOCAL);
    const char *error = module ? NULL : dlerror();
    if (!module) snprintf(why, why_bytes, "this build has no CUDA backend: %.900s", error ? error : LP_CUDA_MODULE);
    return module;
}

/* Whether this node has NVIDIA's driver. Looked for first, because CUDA's own libraries take a quarter of a second to
 * load. */
static bool has_driver(void) {
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (driver) dlclose(driver);
    return driver != NULL;
}

/* LP_ERR_UNSUPPORTED: there is no module, no driver or no device. *broken: though the module's file is there. */
static lp_status open_cuda(const lp_device_options *options, lp_backend **out, bool *broken, lp_error *err) {
    char why[1024] = "";
    void *module = load_module(why, sizeof why, broken);
    if (!module) return lp_fail(err, LP_ERR_UNSUPPORTED, "%s", why);
    void *symbol = dlsym(module, LP_CUDA_OPEN);
    if (!symbol) return lp_fail(err, LP_ERR_MISMATCH, "%s has no %s: not latentpatch's", LP_CUDA_MODULE, LP_CUDA_OPEN);
    lp_backend_cuda_open_function open_backend;
    memcpy(&open_backend, &symbol, sizeof open_backend);
    lp_cuda_options cuda = {.options_bytes = sizeof cuda,
                            .backend_bytes = sizeof(lp_backend),
                            .row_table_bytes = sizeof(lp_row_table),
                            .version = lp_build_version(),
                            .dtype = cuda_dtype(options->dtype),
                            .node_rank = options->node_rank,
                            .log = lp_log};
    LP_CHECK(open_backend(&cuda, out, err));
    lp_backend_use_defaults(*out);
    return LP_OK;
}

lp_status lp_backend_open(const lp_device_options *options, lp_backend **out, lp_error *err) {
    lp_error why = {0};
    if (options->device != LP_USE_CPU) {
        bool broken = false;
        lp_status status =
            options->device == LP_USE_CUDA || has_driver()
                ? open_cuda(options, out, &broken, &why)
                : lp_fail(&why, LP_ERR_UNSUPPORTED, "no CUDA device: no NVIDIA driver was found on this node");
        if (status == LP_OK) return LP_OK;
        /* A device that is there but fails, or a module of another build, is not silently done without. */
        if (options->device == LP_USE_CUDA || status != LP_ERR_UNSUPPORTED) return lp_fail(err, status, "%s", why.text);
        lp_log(broken ? LP_LOG_WARN : LP_LOG_DEBUG, "no GPU is used: %s", why.text);
    }
    if (options->dtype != LP_USE_FP32)
        return lp_fail(err, LP_ERR_UNSUPPORTED, "the cpu backend computes in fp32 only, found \"%s\"%s%s%s",
                       dtype_names[options->dtype], why.text[0] ? " (no GPU is used: " : "", why.text,
                       why.text[0] ? ")" : "");
    return lp_backend_cpu_new(options->threads, out, err);
}
