/* Stage 2's arithmetic without a file or a model: where the store keeps a vector, and what donors are made of. */
#include "support/golden.h"

#include "base/memory.h"
#include "stage/donors.h"
#include "store/record_file_internal.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

enum { LAYERS = 3, D = 4, HEAD = 2, STEPS = 2, PAIRS = 6, PROMPT = 5 };

static char question[2 * PAIRS][16], name_of[PAIRS][16];
static lp_pair pairs[PAIRS];

/* Pairs that have nothing in common. */
static void reset_pairs(void) {
    for (int i = 0; i < PAIRS; i++) {
        snprintf(question[2 * i], sizeof question[0], "q%d", 2 * i);
        snprintf(question[2 * i + 1], sizeof question[0], "q%d", 2 * i + 1);
        snprintf(name_of[i], sizeof name_of[0], "s%d", i);
        pairs[i] = (lp_pair){.id = name_of[i],
                             .source = name_of[i],
                             .clean = {.question = question[2 * i], .answer = 2 * i},
                             .corrupted = {.question = question[2 * i + 1], .answer = 2 * i + 1}};
    }
}

static lp_session session_of(lp_cache_site *sites, size_t n_sites) {
    static char file[] = "job.json";
    lp_session s = {.n_pairs = PAIRS};
    s.model.config = (lp_model_config){
        .n_layers = LAYERS, .d_model = D, .n_heads = D / HEAD, .n_kv_heads = D / HEAD, .head_dim = HEAD};
    s.job.file = file;
    s.job.sweep.n_draws = 1;
    s.pairs.pairs = pairs;
    s.pairs.n = PAIRS;
    s.job.protocol = lp_protocol_preset(LP_PROTOCOL_CODI, STEPS);
    s.job.store.sites = sites;
    s.job.store.n_sites = n_sites;
    s.job.decode.max_new_tokens = 7;
    return s;
}

/* ---- Layout ------------------------------------------------------------------------------------------------------ */

static void test_layout(void **state) {
    (void)state;
    static int32_t indices[] = {-1, 0, -1};
    static lp_cache_site sites[] = {
        {.phase = LP_PHASE_PROMPT, .site = LP_SITE_RESID_POST, .indices = indices, .n_indices = 3},
        {.phase = LP_PHASE_THOUGHT, .site = LP_SITE_K},
        {.phase = LP_PHASE_THOUGHT, .site = LP_SITE_RESID_PRE}};
    lp_session s = session_of(sites, 3);
    lp_store_layout *layout = NULL;
    OK(lp_mem_new(&layout, 1, sizeof *layout, "layout", err));
    OK(lp_store_layout_init(&s, layout, err));
    /* Fields of a run: [layers, positions, width], where the site has layers. */
    static const struct {
        const char *name;
        int n_dims;
        int64_t dims[3];
    } wanted[] = {
        {"resid_post", 3, {LAYERS, STEPS, D}}, {"resid_pre", 3, {1, STEPS, D}},          {"latent_in", 2, {STEPS, D}},
        {"latent_raw", 2, {STEPS, D}},         {"prompt_resid_post", 3, {LAYERS, 2, D}}, {"k", 3, {LAYERS, STEPS, D}}};
    enum { N = sizeof wanted / sizeof *wanted };
    assert_int_equal(layout->n_captured, N);
    assert_int_equal(layout->n_fields, 2 * (N + LP_N_STORED));
    for (int side = 0; side < 2; side++) {
        char path[64];
        const char *run = side == LP_CLEAN ? "clean" : "corrupted";
        for (size_t i = 0; i < N; i++) {
            const lp_field *field = &layout->fields[lp_store_layout_site_field(layout, side, i)];
            snprintf(path, sizeof path, "runs/%s/%s", run, wanted[i].name);
            assert_string_equal(field->path, path);
            assert_int_equal(field->n_dims, wanted[i].n_dims);
            for (int k = 0; k < field->n_dims; k++) assert_int_equal(field->dims[k], wanted[i].dims[k]);
        }
        snprintf(path, sizeof path, "runs/%s/outcome", run);
        assert_string_equal(layout->fields[lp_store_layout_stored_field(layout, side, LP_STORED_OUTCOME)].path, path);
    }
    static const struct {
        lp_address at;
        bool found;
        size_t captured, offset;
    } places[] = {
        {{LP_PHASE_THOUGHT, 1, LP_SITE_RESID_POST, 2, LP_ALL_HEADS}, true, 0, (2 * STEPS + 1) * D},
        {{LP_PHASE_THOUGHT, 0, LP_SITE_K, 1, 1}, true, 5, STEPS * D + HEAD},
        {{LP_PHASE_PROMPT, PROMPT - 1, LP_SITE_RESID_POST, 0, LP_ALL_HEADS}, true, 4, 0},        /* kept as -1 */
        {{LP_PHASE_PROMPT, -PROMPT, LP_SITE_RESID_POST, 1, LP_ALL_HEADS}, true, 4, (2 + 1) * D}, /* kept as 0 */
        {{LP_PHASE_PROMPT, 1, LP_SITE_RESID_POST, 0, LP_ALL_HEADS}, false, 0, 0},
        {{LP_PHASE_ANSWER, 0, LP_SITE_RESID_POST, 0, LP_ALL_HEADS}, false, 0, 0},
        {{LP_PHASE_THOUGHT, 0, LP_SITE_RESID_PRE, 1, LP_ALL_HEADS}, false, 0, 0}, /* not canonical */
        {{LP_PHASE_THOUGHT, STEPS, LP_SITE_RESID_POST, 0, LP_ALL_HEADS}, false, 0, 0},
    };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        size_t captured = 0, offset = 0;
        bool found = lp_store_layout_find(layout, &s, &places[i].at, PROMPT, &captured, &offset);
        if (found != places[i].found || captured != places[i].captured || offset != places[i].offset)
            fail_msg("place %zu: found %d, site %zu, offset %zu", i, found, captured, offset);
    }
    lp_store_layout_release(layout);
    lp_mem_free(layout);
}

static void test_kept_twice(void **state) {
    (void)state;
    static lp_cache_site sites[] = {{.phase = LP_PHASE_THOUGHT, .site = LP_SITE_LATENT_IN}};
    lp_session s = session_of(sites, 1);
    lp_store_layout *layout = NULL;
    lp_error err = {0};
    assert_int_equal(lp_mem_new(&layout, 1, sizeof *layout, "layout", &err), LP_OK);
    assert_int_equal(lp_store_layout_init(&s, layout, &err), LP_ERR_VALUE);
    assert_non_null(strstr(err.text, "job.json: store.sites: latent_in is kept twice"));
    lp_mem_free(layout);
}

/* ---- Donors ------------------------------------------------------------------------------------------------------ */

enum {
    CLEAN,
    CORRUPTED,
    SELF,
    ZERO,
    SHUFFLED,
    RANDOM,
    MEAN,
    SCALE,
    BY_DEVIATION, /* noise in units of the place's deviation, around zeros */
    BY_RMS,       /* of the run's own root mean square, around zeros */
    BY_MEAN,      /* of the mean's root mean square, around it */
    N_CONDITIONS
};

static const lp_donor_detail details[] = {{0},
                                          {.sigma = 1, .around = LP_AROUND_ZERO},
                                          {.sigma = 1, .around = LP_AROUND_ZERO, .in_rms = true},
                                          {.sigma = 1, .around = LP_AROUND_MEAN, .in_rms = true}};
#define NOISE(n)                                                                                                       \
    { .at = {LP_PHASE_THOUGHT, 0, LP_SITE_RESID_POST, 0, LP_ALL_HEADS}, .donor = LP_DONOR_NOISE, .vector = n }

static const lp_replacement drawn[N_CONDITIONS] = {
    [CLEAN] = {.at = {LP_PHASE_THOUGHT, 0, LP_SITE_RESID_POST, 1, LP_ALL_HEADS}, .donor = LP_DONOR_CLEAN},
    [CORRUPTED] = {.at = {LP_PHASE_THOUGHT, 0, LP_SITE_RESID_POST, 1, LP_ALL_HEADS}, .donor = LP_DONOR_CORRUPTED},
    [SELF] = {.at = {LP_PHASE_THOUGHT, 0, LP_SITE_RESID_POST, 1, LP_ALL_HEADS}, .donor = LP_DONOR_SELF},
    [ZERO] = {.at = {LP_PHASE_THOUGHT, 1, LP_SITE_RESID_POST, 0, LP_ALL_HEADS}, .donor = LP_DONOR_ZERO},
    [SHUFFLED] = {.at = {LP_PHASE_THOUGHT, 1, LP_SITE_LATENT_IN, 0, LP_ALL_HEADS}, .donor = LP_DONOR_SHUFFLED},
    [RANDOM] = {.at = {LP_PHASE_THOUGHT, 1, LP_SITE_RESID_POST, 1, LP_ALL_HEADS}, .donor = LP_DONOR_RANDOM},
    [MEAN] = {.at = {LP_PHASE_THOUGHT, 0, LP_SITE_RESID_POST, 0, LP_ALL_HEADS}, .donor = LP_DONOR_MEAN},
    [BY_DEVIATION] = NOISE(1),
    [BY_RMS] = NOISE(2),
    [BY_MEAN] = NOISE(3),
    [SCALE] = {.at = {LP_PHASE_THOUGHT, 0, LP_SITE_RESID_POST, 0, LP_ALL_HEADS}, .operation = LP_OP_SCALE, .factor = 2},
};
enum { N_VECTORS = N_CONDITIONS - 2 }; /* SELF is CORRUPTED here, and SCALE has none */

enum { FIELD = LAYERS * STEPS * D }; /* floats that a field has at most */

typedef struct {
    lp_session session;
    lp_store_layout layout;
    lp_condition_set set;
    lp_run_shapes shapes;
    lp_donor_table table;
    lp_edit_sequence edits[N_CONDITIONS];
    lp_record_file file;
    lp_open_field fields[2 * (LP_MAX_CAPTURED + LP_N_STORED)];
    float stored[2][2 * (LP_MAX_CAPTURED + LP_N_STORED)][FIELD]; /* of the pair itself and another one */
    lp_pair_record own, other;
} fixture;

/* Number i of a field. */
static float stored_number(bool other, size_t field, size_t i) {
    return (float)(other ? -1 : 1) * (float)(1000 * (field + 1) + i * i);
}

static fixture *fixture_new(void) {
    static const int32_t lengths[] = {PROMPT};
    fixture *f = NULL;
    OK(lp_mem_new(&f, 1, sizeof *f, "fixture", err));
    reset_pairs();
    f->session = session_of(NULL, 0);
    OK(lp_store_layout_init(&f->session, &f->layout, err));
    for (size_t i = 0; i < sizeof details / sizeof *details; i++) {
        int32_t index = 0;
        OK(lp_condition_detail(&f->set, &details[i], &index, err));
        assert_int_equal(index, i);
    }
    f->shapes = (lp_run_shapes){.config = &f->session.model.config, .protocol = f->session.job.protocol};
    f->shapes.n_prompt[LP_DENOISE] = lengths;
    f->shapes.n[LP_DENOISE] = 1;
    for (int i = 0; i < N_CONDITIONS; i++) {
        lp_condition *condition = NULL;
        lp_replacement r = drawn[i];
        char name[16];
        snprintf(name, sizeof name, "c%d", i);
        OK(lp_condition_add(&f->set, name, "", "", "", &condition, err));
        condition->direction = LP_DENOISE;
        condition->donor = r.donor;
        condition->n_steps_run = STEPS;
        r.from = r.at;
        if (r.operation == LP_OP_REPLACE) r.factor = 1;
        OK(lp_condition_replace(&f->set, &r, err));
    }
    OK(lp_donor_table_init(&f->session, &f->layout, &f->set, &f->shapes, LP_DENOISE, &f->table, err));
    lp_run_shape shape = {.config = f->shapes.config, .protocol = f->shapes.protocol, .n_prompt = PROMPT};
    for (size_t i = 0; i < N_CONDITIONS; i++) {
        OK(lp_condition_effective(&f->set, i, &shape, &f->edits[i], err));
        assert_int_equal(f->edits[i].n, 1);
    }
    for (size_t k = 0; k < f->layout.n_fields; k++) {
        f->fields[k].offset = k * FIELD * sizeof(float);
        for (size_t i = 0; i < FIELD; i++)
            for (int other = 0; other < 2; other++) f->stored[other][k][i] = stored_number(other, k, i);
    }
    f->file.fields = f->fields;
    f->file.n_fields = f->layout.n_fields;
    f->own = (lp_pair_record){.file = &f->file, .pair = 1, .bytes = (unsigned char *)f->stored[0]};
    f->other = (lp_pair_record){.file = &f->file, .pair = 2, .bytes = (unsigned char *)f->stored[1]};
    OK(lp_mem_new(&f->table.sums, f->table.n_floats, sizeof(double), "sums", err));
    OK(lp_mem_new(&f->table.n_summed, f->table.n, sizeof(int64_t), "sums", err));
    OK(lp_mem_new(&f->table.squares, f->table.n, sizeof(double), "sums", err));
    for (size_t i = 0; i < f->table.n_floats; i++) f->table.sums[i] = 30000;
    for (size_t i = 0; i < f->table.n; i++) f->table.squares[i] = 4 * 30000.0 * 5001;
    for (size_t i = 0; i < f->table.n; i++) f->table.n_summed[i] = PAIRS;
    return f;
}

static void fixture_free(fixture *f) {
    for (int i = 0; i < N_CONDITIONS; i++) lp_edit_sequence_release(&f->edits[i]);
    lp_donor_table_release(&f->table);
    lp_condition_set_release(&f->set);
    lp_store_layout_release(&f->layout);
    lp_mem_free(f);
}

static const float *vector_of(const fixture *f, int condition, const float *gathering) {
    return lp_donor_table_vector(&f->table, &f->edits[condition].edits[0].what, gathering);
}

static float *gather(const fixture *f) {
    float *out = NULL;
    OK(lp_mem_new(&out, f->table.n_floats, sizeof *out, "vectors", err));
    lp_donor_table_gather(&f->table, &f->own, out);
    lp_donor_table_gather_draw(&f->table, 0, &f->other, out);
    return out;
}

/* Every distinct vector is listed once; each is of the run, the pair and the place that its donor says. */
static void test_donors(void **state) {
    (void)state;
    fixture *f = fixture_new();
    assert_int_equal(f->table.n, N_VECTORS);
    assert_int_equal(f->table.n_floats, N_VECTORS * D);
    assert_true(lp_donor_table_needs_sums(&f->table));
    float *got = gather(f);
    size_t resid_post = lp_store_layout_site_field(&f->layout, LP_CLEAN, 0);
    size_t resid_post_corrupted = lp_store_layout_site_field(&f->layout, LP_CORRUPTED, 0);
    size_t latent_in = lp_store_layout_site_field(&f->layout, LP_CLEAN, 2);
    for (size_t k = 0; k < D; k++) {
        assert_true(vector_of(f, CLEAN, got)[k] == stored_number(false, resid_post, STEPS * D + k));
        assert_true(vector_of(f, CORRUPTED, got)[k] == stored_number(false, resid_post_corrupted, STEPS * D + k));
        assert_true(vector_of(f, ZERO, got)[k] == 0);
        assert_true(vector_of(f, SHUFFLED, got)[k] == stored_number(true, latent_in, D + k));
        assert_true(vector_of(f, MEAN, got)[k] == (30000 - stored_number(false, resid_post, k)) / (PAIRS - 1));
    }
    assert_ptr_equal(vector_of(f, SELF, got), vector_of(f, CORRUPTED, got));
    assert_null(vector_of(f, SCALE, got));
    lp_mem_free(got);
    fixture_free(f);
}

/* A replacement at every position takes each vector from its own place. */
static void test_every_position(void **state) {
    (void)state;
    fixture *f = fixture_new();
    lp_run_shape shape = {.config = f->shapes.config, .protocol = f->shapes.protocol, .n_prompt = PROMPT};
    lp_replacement every = {.at = {LP_PHASE_THOUGHT, LP_INDEX_ALL, LP_SITE_RESID_POST, 1, LP_ALL_HEADS}, .factor = 1};
    lp_condition_set set = {0};
    lp_condition *condition = NULL;
    lp_donor_table table;
    lp_edit_sequence edits = {0};
    float got[PROMPT * D];
    every.from = every.at;
    OK(lp_condition_add(&set, "every", "", "", "", &condition, err));
    condition->n_steps_run = STEPS;
    OK(lp_condition_replace(&set, &every, err));
    OK(lp_donor_table_init(&f->session, &f->layout, &set, &f->shapes, LP_DENOISE, &table, err));
    OK(lp_condition_effective(&set, 0, &shape, &edits, err));
    assert_int_equal(edits.n, STEPS);
    assert_int_equal(table.n_floats, STEPS * D);
    lp_donor_table_gather(&table, &f->own, got);
    for (size_t t = 0; t < STEPS; t++)
        for (size_t k = 0; k < D; k++)
            assert_true(lp_donor_table_vector(&table, &edits.edits[t].what, got)[k] ==
                        stored_number(false, 0, (STEPS + t) * D + k));
    lp_edit_sequence_release(&edits);
    lp_donor_table_release(&table);
    lp_condition_set_release(&set);
    fixture_free(f);
}

/* An .npy file of n numbers, which go up by one. */
static void write_npy(const char *path, int n, float first) {
    char header[118];
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    memset(header, ' ', sizeof header);
    int used = snprintf(header, sizeof header, "{'descr': '<f4', 'fortran_order': False, 'shape': (%d,), }", n);
    header[used] = ' ';
    header[sizeof header - 1] = '\n';
    fwrite("\x93NUMPY\x01\x00\x76\x00", 1, 10, f);
    fwrite(header, 1, sizeof header, f);
    for (int i = 0; i < n; i++, first++) fwrite(&first, sizeof first, 1, f);
    fclose(f);
}

/* Vectors from files: one for each file and site, wherever it goes; the wrong length is refused by name. */
static void test_files(void **state) {
    (void)state;
    static const int32_t lengths[] = {PROMPT};
    char folder[] = "/tmp/lp_stage_XXXXXX", first[64], second[64];
    char *paths[] = {first, second};
    assert_non_null(mkdtemp(folder));
    snprintf(first, sizeof first, "%s/a.npy", folder);
    snprintf(second, sizeof second, "%s/b.npy", folder);
    write_npy(first, D, 10);
    write_npy(second, D, 20);
    reset_pairs();
    lp_session session = session_of(NULL, 0);
    session.job.sweep.vectors = paths;
    session.job.sweep.n_vectors = 2;
    lp_store_layout *layout = NULL;
    lp_condition_set set = {0};
    lp_donor_table table;
    lp_run_shapes shapes = {.config = &session.model.config, .protocol = session.job.protocol};
    shapes.n_prompt[LP_DENOISE] = lengths;
    shapes.n[LP_DENOISE] = 1;
    OK(lp_mem_new(&layout, 1, sizeof *layout, "layout", err));
    OK(lp_store_layout_init(&session, layout, err));
    static const struct { int32_t file, layer, step; } places[] = {{0, 0, 0}, {1, 0, 1}, {1, 2, 0}};
    for (int i = 0; i < 3; i++) {
        lp_condition *condition = NULL;
        char name[16];
        snprintf(name, sizeof name, "f%d", i);
        OK(lp_condition_add(&set, name, "", "", "", &condition, err));
        condition->direction = LP_DENOISE;
        condition->donor = LP_DONOR_FILE;
        condition->n_steps_run = STEPS;
        lp_replacement wanted = {
            .at = {LP_PHASE_THOUGHT, places[i].step, LP_SITE_RESID_POST, places[i].layer, LP_ALL_HEADS},
            .operation = LP_OP_REPLACE,
            .factor = 1,
            .donor = LP_DONOR_FILE,
            .vector = places[i].file};
        wanted.from = wanted.at;
        OK(lp_condition_replace(&set, &wanted, err));
    }
    OK(lp_donor_table_init(&session, layout, &set, &shapes, LP_DENOISE, &table, err));
    assert_int_equal(table.n, 2);
    float got[2 * D];
    lp_pair_record none = {0};
    lp_donor_table_gather(&table, &none, got);
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < D; k++)
            assert_true(lp_donor_table_vector(&table, &set.replacements[i], got)[k] ==
                        (float)(10 * (1 + places[i].file) + k));
    lp_donor_table_release(&table);
    write_npy(second, D + 1, 20);
    lp_error error = {0};
    assert_int_equal(lp_donor_table_init(&session, layout, &set, &shapes, LP_DENOISE, &table, &error), LP_ERR_MISMATCH);
    char message[160];
    snprintf(message, sizeof message, "%s: expected %d numbers (resid_post), found %d", second, D, D + 1);
    assert_string_equal(error.text, message);
    lp_condition_set_release(&set);
    lp_store_layout_release(layout);
    lp_mem_free(layout);
    unlink(first);
    unlink(second);
    rmdir(folder);
}

/* Noise has mean and norm of the vector in its place, and is another for another pair. */
static void test_noise(void **state) {
    (void)state;
    fixture *f = fixture_new();
    float *got = gather(f), *again = gather(f);
    double sum = 0, square = 0, wanted_sum = 0, wanted_square = 0;
    assert_memory_equal(got, again, f->table.n_floats * sizeof *got);
    for (size_t k = 0; k < D; k++) {
        double x = (double)vector_of(f, RANDOM, got)[k];
        double y = (double)stored_number(false, 0, STEPS * D + D + k);
        sum += x;
        square += x * x;
        wanted_sum += y;
        wanted_square += y * y;
    }
    assert_true(fabs(sum - wanted_sum) < 1e-6 * wanted_sum);
    assert_true(fabs(square - wanted_square) < 1e-6 * wanted_square);
    f->own.pair = 0;
    lp_donor_table_gather(&f->table, &f->own, again);
    assert_memory_not_equal(vector_of(f, RANDOM, got), vector_of(f, RANDOM, again), D * sizeof *got);
    lp_mem_free(got);
    lp_mem_free(again);
    fixture_free(f);
}

/* Gaussian numbers of the size that is asked for: the mean square over many pairs. The three differ in size and centre
 * alone. */
static void test_measured_noise(void **state) {
    (void)state;
    enum { DRAWS = 2000 };
    fixture *f = fixture_new();
    size_t resid_post = lp_store_layout_site_field(&f->layout, LP_CORRUPTED, 0);
    double rms = 0, mean_rms = 0, deviation = sqrt(4 * 30000.0 * 5001 / PAIRS / D - 5000.0 * 5000), square[3] = {0};
    float mean[D];
    for (size_t k = 0; k < D; k++) {
        double x = (double)stored_number(false, resid_post, k);
        mean[k] = (30000 - stored_number(false, 0, k)) / (PAIRS - 1);
        rms += x * x / D;
        mean_rms += (double)mean[k] * (double)mean[k] / D;
    }
    const double wanted[3] = {deviation, sqrt(rms), sqrt(mean_rms)};
    for (int draw = 0; draw < DRAWS; draw++) {
        f->own.pair = draw;
        float *got = gather(f);
        double first = 0;
        for (int i = 0; i < 3; i++)
            for (size_t k = 0; k < D; k++) {
                double number = (double)vector_of(f, BY_DEVIATION + i, got)[k] - (i == 2 ? (double)mean[k] : 0);
                square[i] += number * number / DRAWS / D;
                if (k > 0) continue;
                if (i == 0) first = number;
                assert_true(fabs(number / first - wanted[i] / wanted[0]) < 1e-3 * wanted[i] / wanted[0]);
            }
        lp_mem_free(got);
    }
    /* four standard errors of a mean of 8,000 squares */
    for (int i = 0; i < 3; i++)
        if (fabs(sqrt(square[i]) / wanted[i] - 1) > 0.032) fail_msg("%d: %g, not %g", i, sqrt(square[i]), wanted[i]);
    fixture_free(f);
}

/* A position that the donor's run does not have: the vector is not there; the mean is that of the others. */
static void test_absent(void **state) {
    (void)state;
    fixture *f = fixture_new();
    for (size_t i = 0; i < FIELD; i++) f->stored[0][0][i] = NAN;
    float *got = gather(f);
    assert_false(lp_donor_has(lp_donor_table_vector(&f->table, &f->edits[CLEAN].edits[0].what, got)));
    assert_true(lp_donor_has(lp_donor_table_vector(&f->table, &f->edits[CORRUPTED].edits[0].what, got)));
    assert_true(lp_donor_has(lp_donor_table_vector(&f->table, &f->edits[SCALE].edits[0].what, got)));
    assert_true(vector_of(f, MEAN, got)[0] == 30000.0f / PAIRS);
    lp_mem_free(got);
    fixture_free(f);
}

/* A shuffled donor shares nothing with its recipient; each of the pairs that are left comes up, with the chance of the
 * others, in draws that differ by their seed. */
static void test_other_pairs(void **state) {
    (void)state;
    enum { SEEDS = LP_MAX_DRAWS };
    static char template_[] = "t";
    fixture *f = fixture_new();
    lp_session *s = &f->session;
    pairs[1].source = pairs[0].source;
    pairs[2].template = pairs[0].template = template_;
    pairs[3].corrupted.question = pairs[0].clean.question;
    pairs[4].clean.answer = pairs[0].corrupted.answer;
    s->job.sweep.n_draws = SEEDS;
    for (int i = 0; i < SEEDS; i++) s->job.sweep.shuffled_seeds[i] = (uint64_t)i;
    lp_donor_table_release(&f->table);
    OK(lp_donor_table_init(s, &f->layout, &f->set, &f->shapes, LP_DENOISE, &f->table, err));
    int counts[PAIRS][PAIRS] = {{0}};
    for (int32_t d = 0; d < SEEDS; d++)
        for (int i = 0; i < PAIRS; i++) counts[i][lp_donor_table_other(&f->table, d, i)]++;
    for (int i = 0; i < PAIRS; i++)
        for (int k = 0; k < PAIRS; k++) {
            bool foreign = i != k && i != 0 && k != 0;
            if (i + k == 5 && i * k == 0) foreign = true; /* only pair 5 has nothing of pair 0 */
            int least = !foreign ? 0 : i == 0 ? SEEDS : 3, most = !foreign ? 0 : i == 0 ? SEEDS : 32;
            if (counts[i][k] < least || counts[i][k] > most) fail_msg("pair %d from %d: %d times", i, k, counts[i][k]);
        }
    pairs[5].source = pairs[0].source;
    lp_donor_table_release(&f->table);
    OK(lp_donor_table_init(s, &f->layout, &f->set, &f->shapes, LP_DENOISE, &f->table, err));
    assert_true(lp_donor_table_other(&f->table, 0, 0) == LP_NO_PAIR);
    float *got = NULL;
    OK(lp_mem_new(&got, f->table.n_floats, sizeof *got, "vectors", err));
    lp_donor_table_gather_draw(&f->table, 0, NULL, got);
    assert_false(lp_donor_has(lp_donor_table_vector(&f->table, &f->edits[SHUFFLED].edits[0].what, got)));
    lp_mem_free(got);
    fixture_free(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout),         cmocka_unit_test(test_kept_twice), cmocka_unit_test(test_donors),
        cmocka_unit_test(test_every_position), cmocka_unit_test(test_files),      cmocka_unit_test(test_noise),
        cmocka_unit_test(test_measured_noise), cmocka_unit_test(test_absent),     cmocka_unit_test(test_other_pairs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
