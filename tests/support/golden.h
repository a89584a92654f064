/* The golden files of tests/golden: which there are, the models that they belong to, and comparison with a bound. For
 * tests only: whatever goes wrong ends the test with the place in the message. */
#ifndef LP_TESTS_SUPPORT_GOLDEN_H
#define LP_TESTS_SUPPORT_GOLDEN_H

#include "base/json.h"
#include "model/model.h"
#include "model/tensor_source.h"
#include "thought/protocol.h"
#include "token/tokenizer.h"

#include <setjmp.h>

#include <cmocka.h>

/* Ends the test unless `call` succeeds, with the error's text. */
#define OK(call)                                                                                                       \
    do {                                                                                                               \
        lp_error golden_error = {0};                                                                                   \
        lp_error *err = &golden_error;                                                                                 \
        if ((call) != LP_OK) fail_msg("%s", golden_error.text);                                                        \
    } while (0)

/* ctest runs the parity and invariance tests once for each kernel set. False, with a word why, where this processor
 * cannot run the set that LATENTPATCH_KERNELS names: the program then ends with GOLDEN_SKIPPED. */
enum { GOLDEN_SKIPPED = 77 };
bool golden_kernels_run_here(void);
/* True where LP_TEST_QUICK is set: a subset of the cases is enough. */
bool golden_quick(void);

enum { GOLDEN_NAME = 64, GOLDEN_MAX = 64 };

typedef struct {
    char model[GOLDEN_NAME];    /* "gpt2-ln", "demo-gpt2" */
    char protocol[GOLDEN_NAME]; /* one that golden_protocol knows */
    char path[512];
} golden_file;

/* Every file MODEL.PROTOCOL<suffix> of tests/golden/data, sorted by name; fails where there is none. */
size_t golden_files(const char *suffix, golden_file out[GOLDEN_MAX]);
/* The path of tests/golden/data/<name><suffix>. */
void golden_path(const char *name, const char *suffix, char *out, size_t size);

typedef struct {
    char base[512]; /* folder of the tokenizer */
    lp_model model;
    lp_tokenizer *tokenizer;
    lp_vocabulary vocabulary;
} golden_model;

/* tests/golden/models/<name>, or jobs/demo/<arch> for "demo-<arch>". */
void golden_model_open(const char *name, golden_model *out);
void golden_model_close(golden_model *model);
/* The model's ids under a protocol; golden_model.vocabulary is that of codi. */
void golden_vocabulary(const golden_model *model, const char *protocol, lp_vocabulary *out);

/* *vocabulary with what the protocol's roles make of it, its texts left out: enough for an executor. */
void golden_resolve_roles(const lp_protocol *protocol, lp_vocabulary *vocabulary);

/* The protocol of that name with n_steps thought steps: one of lp_protocol_names, or "codi-keep-eos" (codi with
 * remove_eos false), "codi-open" (nothing is barred), "codi-barred" (tokens in the middle are), "multimode", and,
 * without steps, "direct" and "written". */
lp_protocol golden_protocol(const char *name, int32_t n_steps);

/* The member of a JSON object, which must be there. */
lp_json golden_member(const lp_json *object, const char *key);
bool golden_truth(const lp_json *object, const char *key);

/* The tensor of that name; NULL where there is none. */
const lp_tensor *golden_tensor(const lp_tensor_list *list, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* The same, contiguous and of that type; ends the test where it is not there. */
const lp_tensor *golden_need(const lp_tensor_list *list, lp_dtype dtype, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A comparison of two arrays of floats, gathered over several calls. */
typedef struct {
    double worst;      /* largest |got - wanted| / largest |wanted| of one array */
    double worst_l2;   /* largest relative L2 distance of one array */
    char where[128];   /* array that `worst` is of */
    int64_t n;         /* numbers compared */
    int64_t n_unequal; /* NaN, or infinite in one of the two */
} golden_error_of;
void golden_compare(golden_error_of *error, const float *got, const float *wanted, size_t n, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

#endif
