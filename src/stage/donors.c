#include "stage/donors.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/npy.h"
#include "base/random.h"

#include <math.h>

/* Streams of random numbers, so that two uses never share one. */
enum { STREAM_SHUFFLE = 1, STREAM_RANDOM = 2, STREAM_NOISE = 3 };

/* What makes the vector of a replacement another one; 0 where that does not matter. */
typedef struct {
    int32_t donor, number, site, head, phase, index, layer;
} vector_key;

static vector_key key_of_vector(const lp_donor_table *table, const lp_replacement *what) {
    bool has_place = lp_donor_has_place(what->donor);
    lp_donor donor = what->donor != LP_DONOR_SELF     ? what->donor
                     : table->source_side == LP_CLEAN ? LP_DONOR_CORRUPTED
                                                      : LP_DONOR_CLEAN;
    bool is_numbered =
        donor == LP_DONOR_SHUFFLED || donor == LP_DONOR_MEAN || donor == LP_DONOR_NOISE || donor == LP_DONOR_FILE;
    lp_address from = has_place ? what->from : what->at;
    lp_address_canonical(&from);
    return (vector_key){.donor = (int32_t)donor,
                        .number = is_numbered ? what->vector : 0,
                        .site = (int32_t)from.site,
                        .head = from.head,
                        .phase = has_place ? (int32_t)from.phase : 0,
                        .index = has_place ? from.index : 0,
                        .layer = has_place ? from.layer : 0};
}

typedef struct {
    vector_key key;
    lp_replacement *replacement;
} keyed;

static int compare_keyed(const void *a, const void *b) {
    return memcmp(a, b, sizeof(vector_key));
}

/* Gives every replacement of the direction the place of its vector: one place for all that need the same vector, and
 * as many as there are positions where it is one for each. The vectors themselves come later, where they act. */
static lp_status number_vectors(lp_donor_table *table, lp_condition_set *set, size_t n_positions,
                                lp_direction direction, lp_error *err) {
    keyed *list = NULL;
    size_t n = 0;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&list, set->n_replacements, sizeof *list, "donor vectors", err));
    for (size_t i = 0; i < set->n; i++) {
        const lp_condition *condition = &set->conditions[i];
        for (size_t k = 0; k < condition->n && condition->direction == direction; k++) {
            lp_replacement *what = &set->replacements[condition->first + k];
            if (lp_replacement_takes_vector(what)) list[n++] = (keyed){key_of_vector(table, what), what};
        }
    }
    if (n > 1) qsort(list, n, sizeof *list, compare_keyed);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && compare_keyed(&list[i - 1], &list[i]) == 0) {
            list[i].replacement->source = list[i - 1].replacement->source;
            continue;
        }
        list[i].replacement->source = (int32_t)table->n;
        table->n += list[i].key.index == LP_INDEX_ALL ? n_positions : 1;
    }
    LP_TRY(lp_mem_new(&table->vectors, table->n, sizeof *table->vectors, "donor vectors", err));
out:
    lp_mem_free(list);
    return status;
}

/* The side whose record holds the vector. */
static int side_of(const lp_donor_table *table, lp_donor donor) {
    if (donor == LP_DONOR_CLEAN) return LP_CLEAN;
    if (donor == LP_DONOR_CORRUPTED) return LP_CORRUPTED;
    return table->source_side;
}

/* The orthonormal rows of a file's directions, by Gram and Schmidt, twice, in double precision. */
static lp_status make_subspace(lp_donor_table *table, const lp_condition *condition, const lp_replacement *replacement,
                               lp_error *err) {
    const lp_session *session = table->session;
    size_t file = (size_t)replacement->subspace - 1;
    const char *name = session->job.sweep.vectors[file];
    size_t width = (size_t)lp_site_width(&session->model.config, replacement->at.site, replacement->at.head);
    size_t n = table->file_sizes[file] / width;
    const float *rows = table->files + table->file_offsets[file];
    lp_subspace *out = &table->subspaces[file];
    double *basis = NULL;
    float *directions = NULL;
    lp_status status = LP_OK;
    if (out->n > 0 && out->width == (int32_t)width) return LP_OK;
    if (out->n > 0)
        LP_FAIL(LP_ERR_MISMATCH, "%s: condition %s: directions of %d numbers cannot span a part of %s, which has %zu",
                name, condition->name, out->width, lp_site_names()[replacement->at.site], width);
    if (n == 0 || n > LP_MAX_DIRECTIONS || n * width != table->file_sizes[file])
        LP_FAIL(LP_ERR_MISMATCH, "%s: condition %s: expected 1 to %d directions of %zu numbers (%s), found %zu numbers",
                name, condition->name, LP_MAX_DIRECTIONS, width, lp_site_names()[replacement->at.site],
                table->file_sizes[file]);
    LP_TRY(lp_mem_new(&basis, n * width, sizeof *basis, "directions", err));
    LP_TRY(lp_mem_new(&directions, n * width, sizeof *directions, "directions", err));
    for (size_t j = 0; j < n; j++) {
        double *x = basis + j * width, before = 0, after = 0;
        for (size_t i = 0; i < width; i++) x[i] = (double)rows[j * width + i];
        for (size_t i = 0; i < width; i++) before += x[i] * x[i];
        for (size_t k = 0; k < 2 * j; k++) {
            const double *y = basis + k % j * width;
            double dot = 0;
            for (size_t i = 0; i < width; i++) dot += x[i] * y[i];
            for (size_t i = 0; i < width; i++) x[i] -= dot * y[i];
        }
        for (size_t i = 0; i < width; i++) after += x[i] * x[i];
        if (!(after > 1e-10 * before))
            LP_FAIL(LP_ERR_VALUE, "%s: direction %zu is zero, or a sum of multiples of those before it", name, j);
        double length = sqrt(after);
        for (size_t i = 0; i < width; i++) x[i] /= length;
        for (size_t i = 0; i < width; i++) directions[j * width + i] = (float)x[i];
    }
    *out = (lp_subspace){.directions = directions, .n = (int32_t)n, .width = (int32_t)width};
    directions = NULL;
out:
    lp_mem_free(basis);
    lp_mem_free(directions);
    return status;
}

static lp_status add_vector(lp_donor_table *table, const lp_condition_set *set, const lp_condition *condition,
                            const lp_replacement *replacement, lp_error *err) {
    const lp_session *session = table->session;
    if (lp_operation_has_subspace(replacement->operation) && replacement->subspace > 0) {
        LP_CHECK(make_subspace(table, condition, replacement, err));
    }
    if (!lp_replacement_takes_vector(replacement)) return LP_OK;
    lp_donor_vector vector = {.donor = replacement->donor,
                              .from = replacement->from,
                              .vector = replacement->vector,
                              .width =
                                  lp_site_width(&session->model.config, replacement->from.site, replacement->from.head),
                              .offset = table->n_floats};
    if (replacement->donor == LP_DONOR_MEAN || replacement->donor == LP_DONOR_NOISE)
        vector.detail = *lp_replacement_detail(set, replacement);
    int32_t target = lp_site_width(&session->model.config, replacement->at.site, replacement->at.head);
    if (vector.width != target)
        return lp_fail(err, LP_ERR_VALUE, "%s: condition %s: a vector of %d numbers (%s) cannot go to %s, which has %d",
                       session->job.file, condition->name, vector.width, lp_site_names()[replacement->from.site],
                       lp_site_names()[replacement->at.site], target);
    /* Only now: a target of another width may want a vector that is listed. */
    if (table->vectors[replacement->source].width > 0) return LP_OK;
    /* Prompt indices are matched as the job writes them; a place in the middle of the longest prompt stands for any
     * length. */
    if (lp_donor_has_place(replacement->donor) &&
        !lp_store_layout_find(table->layout, session, &replacement->from, 1 << 20, &vector.captured, &vector.at))
        return lp_fail(
            err, LP_ERR_VALUE,
            "%s: condition %s: the store does not keep %s of %s positions (index %d): add {\"phase\": \"%s\", \"site\": "
            "\"%s\"%s} to store.sites (a store that is there cannot be extended: name another store.file)",
            session->job.file, condition->name, lp_site_names()[replacement->from.site],
            lp_phase_names()[replacement->from.phase], replacement->from.index,
            lp_phase_names()[replacement->from.phase], lp_site_names()[replacement->from.site],
            replacement->from.phase == LP_PHASE_THOUGHT ? "" : ", \"index\": [...]");
    if (replacement->donor == LP_DONOR_FILE && table->file_sizes[replacement->vector] != (size_t)vector.width)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: expected %d numbers (%s), found %zu",
                       session->job.sweep.vectors[replacement->vector], vector.width,
                       lp_site_names()[replacement->from.site], table->file_sizes[replacement->vector]);
    table->vectors[replacement->source] = vector;
    table->n_floats += (size_t)vector.width;
    return LP_OK;
}

/* Two kinds of donors come from other pairs. */
static lp_status need_other_pairs(const lp_session *session, const lp_condition *condition, lp_error *err) {
    bool shuffled = condition->donor == LP_DONOR_SHUFFLED;
    bool measured = condition->donor == LP_DONOR_MEAN || condition->donor == LP_DONOR_NOISE;
    if (session->n_pairs > 1 || (!shuffled && !measured)) return LP_OK;
    if (shuffled && session->job.sweep.controls.shuffled)
        return lp_fail(err, LP_ERR_VALUE,
                       "%s: $.sweep.controls: the control \"shuffled\" needs at least 2 pairs, found 1 (sweep.controls "
                       "[\"self\"] leaves it out)",
                       session->job.file);
    return lp_fail(err, LP_ERR_VALUE, "%s: condition %s: the donor \"%s\" needs at least 2 pairs, found 1",
                   session->job.file, condition->name, lp_donor_names()[condition->donor]);
}

static bool same_side(const lp_pair_side *a, const lp_pair_side *b) {
    return a->answer == b->answer || strcmp(a->question, b->question) == 0;
}

/* Nothing of the other pair is what this one may know already. */
static bool is_foreign(const lp_pair *a, const lp_pair *b) {
    if (strcmp(a->source, b->source) == 0) return false;
    if (a->template && b->template && strcmp(a->template, b->template) == 0) return false;
    return !same_side(&a->clean, &b->clean) && !same_side(&a->clean, &b->corrupted) &&
           !same_side(&a->corrupted, &b->clean) && !same_side(&a->corrupted, &b->corrupted);
}

/* Uniform over the foreign pairs: a few are tried; only where none of these will do, all are counted. */
static uint32_t draw_pair(const lp_pair_set *set, uint32_t n, uint32_t own, uint64_t seed) {
    enum { TRIES = 64 };
    const lp_pair *pairs = set->pairs;
    lp_random_key key = {.seed = seed, .stream = STREAM_SHUFFLE, .a = own};
    uint32_t n_foreign = 0;
    for (uint32_t i = 0; i < TRIES; i++) {
        uint32_t other = lp_random_below(key, i, n);
        if (is_foreign(&pairs[own], &pairs[other])) return other;
    }
    for (uint32_t i = 0; i < n; i++) n_foreign += is_foreign(&pairs[own], &pairs[i]);
    if (n_foreign == 0) return LP_NO_PAIR;
    key.b = 1;
    uint32_t left = lp_random_below(key, 0, n_foreign);
    for (uint32_t i = 0;; i++)
        if (is_foreign(&pairs[own], &pairs[i]) && left-- == 0) return i;
}

/* All of one source or of one template: none is foreign, which each pair would have to find by looking at all others.
 */
static bool are_of_one_kind(const lp_pair *pairs, size_t n) {
    bool source = true, template = true;
    for (size_t i = 0; i < n && (source || template); i++) {
        source = source && strcmp(pairs[i].source, pairs[0].source) == 0;
        template = template &&pairs[i].template &&strcmp(pairs[i].template, pairs[0].template) == 0;
    }
    return source || template;
}

static lp_status draw_pairs(lp_donor_table *table, lp_error *err) {
    const lp_session *session = table->session;
    size_t n = (size_t)session->n_pairs;
    bool is_hopeless = are_of_one_kind(session->pairs.pairs, n);
    table->n_draws = session->job.sweep.n_draws;
    lp_status status =
        lp_mem_new(&table->other_pair, n * (size_t)table->n_draws, sizeof(uint32_t), "shuffled pairs", err);
    for (int32_t d = 0; status == LP_OK && d < table->n_draws; d++)
        for (size_t i = 0; i < n; i++)
            table->other_pair[(size_t)d * n + i] = is_hopeless ? LP_NO_PAIR
                                                               : draw_pair(&session->pairs, (uint32_t)n, (uint32_t)i,
                                                                           session->job.sweep.shuffled_seeds[d]);
    return status;
}

static lp_status read_files(lp_donor_table *table, lp_error *err) {
    const lp_job *job = &table->session->job;
    size_t n = job->sweep.n_vectors, capacity = 0, used = 0;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&table->file_offsets, n, sizeof(size_t), "vectors", err));
    LP_TRY(lp_mem_new(&table->file_sizes, n, sizeof(size_t), "vectors", err));
    LP_TRY(lp_mem_new(&table->subspaces, n, sizeof *table->subspaces, "vectors", err));
    for (size_t i = 0; i < n; i++) {
        float *values = NULL;
        size_t count = 0;
        LP_TRY(lp_npy_read_f32(job->sweep.vectors[i], &values, &count, err));
        status = lp_mem_grow(&table->files, &capacity, used + count, sizeof(float), "vectors", err);
        if (status == LP_OK) memcpy(table->files + used, values, count * sizeof(float));
        lp_mem_free(values);
        if (status != LP_OK) goto out;
        table->file_offsets[i] = used;
        table->file_sizes[i] = count;
        used += count;
    }
out:
    return status;
}

/* The place of the vector's label in the table, which gets it where it has none like it. */
static lp_status find_labels(lp_donor_table *table, const lp_donor_detail *detail, int32_t *out, lp_error *err) {
    size_t i = 0;
    while (i < table->n_labels &&
           (table->labels[i].label != detail->label || table->labels[i].step != detail->label_step))
        i++;
    *out = (int32_t)i;
    if (i < table->n_labels) return LP_OK;
    LP_CHECK(lp_mem_grow(&table->labels, &table->label_capacity, i + 1, sizeof *table->labels, "labels", err));
    LP_CHECK(lp_pair_labels_init(table->session, table->source_side, detail->label, detail->label_step,
                                 &table->labels[i], err));
    table->n_labels++;
    return LP_OK;
}

lp_status lp_donor_table_init(const lp_session *session, const lp_store_layout *layout, lp_condition_set *set,
                              const lp_run_shapes *shapes, lp_direction direction, lp_donor_table *out, lp_error *err) {
    lp_donor_table table = {
        .session = session, .layout = layout, .source_side = direction == LP_DENOISE ? LP_CLEAN : LP_CORRUPTED};
    lp_run_shape shape = {.config = shapes->config, .protocol = shapes->protocol};
    size_t n_shapes = lp_conditions_count_shapes(set, shapes, direction);
    lp_edit_sequence edits = {0};
    bool shuffles = false;
    lp_status status = LP_OK;
    size_t n_positions = (size_t)shapes->protocol.n_steps;
    for (size_t l = 0; l < shapes->n[direction]; l++)
        if ((size_t)shapes->n_prompt[direction][l] > n_positions) n_positions = (size_t)shapes->n_prompt[direction][l];
    LP_TRY(read_files(&table, err));
    LP_TRY(number_vectors(&table, set, n_positions, direction, err));
    for (size_t i = 0; i < set->n; i++) {
        const lp_condition *condition = &set->conditions[i];
        if (condition->direction != direction) continue;
        LP_TRY(need_other_pairs(session, condition, err));
        for (size_t l = 0; l < n_shapes; l++) {
            shape.n_prompt = shapes->n_prompt[direction][l];
            LP_TRY(lp_condition_effective(set, i, &shape, &edits, err));
            for (size_t k = 0; k < edits.n; k++) {
                LP_TRY(add_vector(&table, set, condition, &edits.edits[k].what, err));
                shuffles |= edits.edits[k].what.donor == LP_DONOR_SHUFFLED;
            }
        }
    }
    if (shuffles) LP_TRY(draw_pairs(&table, err));
    for (size_t i = 0; i < table.n; i++) {
        lp_donor_vector *vector = &table.vectors[i];
        if (vector->detail.label == LP_LABEL_NONE) continue;
        LP_TRY(find_labels(&table, &vector->detail, &vector->labels, err));
        size_t n_groups = (size_t)table.labels[vector->labels].n_groups;
        vector->group_sums = table.n_group_sums;
        vector->group_counts = table.n_group_counts;
        table.n_group_sums += n_groups * (size_t)vector->width;
        table.n_group_counts += n_groups;
    }
    lp_edit_sequence_release(&edits);
    *out = table;
    return LP_OK;
out:
    lp_edit_sequence_release(&edits);
    lp_donor_table_release(&table);
    return status;
}

void lp_donor_table_release(lp_donor_table *table) {
    lp_mem_free(table->vectors);
    lp_mem_free(table->other_pair);
    lp_mem_free(table->sums);
    lp_mem_free(table->squares);
    lp_mem_free(table->n_summed);
    lp_mem_free(table->group_sums);
    lp_mem_free(table->n_in_group);
    for (size_t i = 0; i < table->n_labels; i++) lp_pair_labels_release(&table->labels[i]);
    lp_mem_free(table->labels);
    lp_mem_free(table->files);
    for (size_t i = 0; table->subspaces && i < table->session->job.sweep.n_vectors; i++)
        lp_mem_free((void *)(uintptr_t)table->subspaces[i].directions);
    lp_mem_free(table->subspaces);
    lp_mem_free(table->file_offsets);
    lp_mem_free(table->file_sizes);
    *table = (lp_donor_table){0};
}

/* Do the vector's numbers depend on all pairs? */
static bool is_summed(const lp_donor_vector *vector) {
    if (vector->donor == LP_DONOR_MEAN) return true;
    return vector->donor == LP_DONOR_NOISE && (vector->detail.around == LP_AROUND_MEAN || !vector->detail.in_rms);
}

bool lp_donor_table_needs_sums(const lp_donor_table *table) {
    for (size_t i = 0; i < table->n; i++)
        if (is_summed(&table->vectors[i])) return true;
    return false;
}

/* The vector in a pair of the store, of the run of that side. */
static const float *vector_of_side(const lp_donor_table *table, const lp_pair_record *record,
                                   const lp_donor_vector *vector, int side) {
    size_t field = lp_store_layout_site_field(table->layout, side, vector->captured);
    return (const float *)lp_pair_record_field(record, field) + vector->at;
}

static const float *vector_of(const lp_donor_table *table, const lp_pair_record *record,
                              const lp_donor_vector *vector) {
    return vector_of_side(table, record, vector, side_of(table, vector->donor));
}

/* The store marks positions that a run does not have by NaN. */
static bool is_there(const float *x) {
    return !isnan(x[0]);
}

/* Whether a mean takes all thought steps together. That of the last prompt position beside them is its own. */
static bool spans_steps(const lp_donor_vector *vector) {
    return vector->detail.all_steps && vector->from.phase == LP_PHASE_THOUGHT;
}

/* Positions that a mean takes together: one, or all thought steps, whose vectors lie a step apart. */
static int32_t steps_of(const lp_donor_table *table, const lp_donor_vector *vector) {
    return spans_steps(vector) ? table->session->job.protocol.n_steps : 1;
}

/* Number k of a pair's vector, or of its mean over the steps. */
static double number_of(const lp_donor_table *table, const lp_donor_vector *vector, const float *x, int32_t k) {
    int32_t n_steps = steps_of(table, vector), stride = table->layout->captured[vector->captured].width;
    double sum = 0;
    for (int32_t t = 0; t < n_steps; t++) sum += (double)x[(size_t)t * (size_t)stride + (size_t)k];
    return sum / n_steps;
}

static const float *summed_vector(const lp_donor_table *table, const lp_pair_record *record,
                                  const lp_donor_vector *vector) {
    const float *x = vector_of(table, record, vector);
    if (!spans_steps(vector)) return x;
    return x - (size_t)vector->from.index * (size_t)table->layout->captured[vector->captured].width;
}

/* Index of a pair's group in the table's counts of a labelled vector; -1: none. */
static int64_t group_at(const lp_donor_table *table, const lp_donor_vector *vector, int64_t pair) {
    return vector->detail.label == LP_LABEL_NONE ? -1 : table->labels[vector->labels].group[pair];
}

static void add_pair(lp_donor_table *table, size_t i, const lp_pair_record *record) {
    const lp_donor_vector *vector = &table->vectors[i];
    const float *x = summed_vector(table, record, vector);
    if (!is_there(x)) return;
    int64_t group = group_at(table, vector, record->pair);
    table->n_summed[i]++;
    if (group >= 0) table->n_in_group[vector->group_counts + (size_t)group]++;
    for (int32_t k = 0; k < vector->width; k++) {
        double number = number_of(table, vector, x, k);
        table->sums[vector->offset + (size_t)k] += number;
        if (group >= 0)
            table->group_sums[vector->group_sums + (size_t)group * (size_t)vector->width + (size_t)k] += number;
    }
    int32_t n_steps = steps_of(table, vector), stride = table->layout->captured[vector->captured].width;
    for (int32_t t = 0; t < n_steps; t++)
        for (int32_t k = 0; k < vector->width; k++) {
            double number = (double)x[(size_t)t * (size_t)stride + (size_t)k];
            table->squares[i] += number * number / n_steps;
        }
}

lp_status lp_donor_table_sum(lp_donor_table *table, lp_record_file *store, lp_error *err) {
    lp_pair_record record = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&table->sums, table->n_floats, sizeof(double), "sums", err));
    LP_TRY(lp_mem_new(&table->squares, table->n, sizeof(double), "sums", err));
    LP_TRY(lp_mem_new(&table->n_summed, table->n, sizeof(int64_t), "sums", err));
    LP_TRY(lp_mem_new(&table->group_sums, table->n_group_sums, sizeof(double), "sums by label", err));
    LP_TRY(lp_mem_new(&table->n_in_group, table->n_group_counts, sizeof(int64_t), "sums by label", err));
    for (int64_t pair = 0; pair < table->session->n_pairs; pair++) {
        LP_TRY(lp_record_file_load(store, pair, &record, err));
        for (size_t i = 0; i < table->n; i++)
            if (is_summed(&table->vectors[i])) add_pair(table, i, &record);
    }
out:
    lp_pair_record_release(&record);
    return status;
}

/* The number of a site in keys of random numbers: results keep their values when sites are added. */
static uint32_t random_number_of(lp_site site) {
    static const uint8_t numbers[LP_N_SITES] = {
        [LP_SITE_LATENT_IN] = 0,  [LP_SITE_RESID_PRE] = 1, [LP_SITE_K] = 2,       [LP_SITE_V] = 3,
        [LP_SITE_ATTN_OUT] = 4,   [LP_SITE_RESID_MID] = 5, [LP_SITE_MLP_OUT] = 6, [LP_SITE_RESID_POST] = 7,
        [LP_SITE_LATENT_RAW] = 8, [LP_SITE_Q] = 9,         [LP_SITE_Z] = 10};
    return numbers[site];
}

/* *out = number k of the mean over the other pairs that the detail means; false where these are too few. */
static bool mean_of_others(const lp_donor_table *table, const lp_pair_record *own, const lp_donor_vector *vector,
                           int32_t k, double *out) {
    const lp_donor_detail *detail = &vector->detail;
    size_t i = (size_t)(vector - table->vectors);
    const float *x = summed_vector(table, own, vector);
    bool with_own = is_there(x);
    double own_number = with_own ? number_of(table, vector, x, k) : 0;
    double sum = table->sums[vector->offset + (size_t)k] - own_number;
    int64_t n = table->n_summed[i] - with_own, group = group_at(table, vector, own->pair);
    if (detail->label != LP_LABEL_NONE) {
        /* of the others with the same text */
        double same = 0;
        int64_t n_same = 0;
        if (!table->labels[vector->labels].has_text[own->pair]) return false;
        if (group >= 0) {
            same =
                table->group_sums[vector->group_sums + (size_t)group * (size_t)vector->width + (size_t)k] - own_number;
            n_same = table->n_in_group[vector->group_counts + (size_t)group] - with_own;
        }
        sum = detail->is_different ? sum - same : same;
        n = detail->is_different ? n - n_same : n_same;
    }
    *out = n > 0 ? sum / (double)n : 0;
    return n >= (detail->least > 1 ? detail->least : 1);
}

/* The root of the mean over the vector's numbers of their variance over the pairs of the store. */
static double deviation_of(const lp_donor_table *table, const lp_donor_vector *vector) {
    size_t i = (size_t)(vector - table->vectors);
    double n = (double)table->n_summed[i], sum = 0;
    if (n == 0) return NAN;
    for (int32_t k = 0; k < vector->width; k++) {
        double mean = table->sums[vector->offset + (size_t)k] / n;
        sum += mean * mean;
    }
    double variance = (table->squares[i] / n - sum) / vector->width;
    return variance > 0 ? sqrt(variance) : 0;
}

static lp_random_key key_of(const lp_donor_table *table, uint32_t stream, const lp_donor_vector *vector, int64_t pair) {
    const lp_address *address = &vector->from;
    return (lp_random_key){.seed = table->session->job.sweep.seed,
                           .stream = stream | (uint32_t)address->phase << 8 | random_number_of(address->site) << 12,
                           .a = (uint32_t)pair,
                           .b = (uint32_t)address->layer << 16 ^ (uint32_t)address->index ^
                                (uint32_t)(address->head + 1) << 26};
}

/* Independent Gaussian numbers around the centre; around the run's own vector only what is added to it. Noise of any
 * size at one place of a pair is the same up to its size. */
static void measured_noise(const lp_donor_table *table, const lp_donor_vector *vector, const lp_pair_record *own,
                           float *out) {
    const lp_donor_detail *detail = &vector->detail;
    const float *x = vector_of_side(table, own, vector, 1 - table->source_side);
    double square = 0, scale = 0;
    bool is_good = true;
    lp_random_normal(key_of(table, STREAM_NOISE, vector, own->pair), out, (size_t)vector->width);
    if (!detail->in_rms) scale = deviation_of(table, vector);
    for (int32_t k = 0; k < vector->width && detail->in_rms; k++) {
        double number = (double)x[k];
        if (detail->around == LP_AROUND_MEAN) is_good &= mean_of_others(table, own, vector, k, &number);
        square += number * number;
    }
    if (detail->in_rms) scale = sqrt(square / vector->width);
    for (int32_t k = 0; k < vector->width; k++) {
        double centre = 0;
        if (detail->around == LP_AROUND_MEAN) is_good &= mean_of_others(table, own, vector, k, &centre);
        out[k] = is_good ? (float)(centre + (double)detail->sigma * scale * (double)out[k]) : NAN;
    }
}

/* Gaussian numbers, standardised and then given the mean and the standard deviation of x: so the mean and the norm are
 * those of x exactly. The key holds pair and address, so the order of asking does not matter. */
static void matched_noise(const lp_donor_table *table, const lp_donor_vector *vector, int64_t pair, const float *x,
                          float *out) {
    int32_t n = vector->width;
    double mean = 0, square = 0, noise_mean = 0, noise_square = 0;
    lp_random_normal(key_of(table, STREAM_RANDOM, vector, pair), out, (size_t)n);
    for (int32_t i = 0; i < n; i++) {
        mean += (double)x[i] / n;
        noise_mean += (double)out[i] / n;
    }
    for (int32_t i = 0; i < n; i++) {
        square += ((double)x[i] - mean) * ((double)x[i] - mean) / n;
        noise_square += ((double)out[i] - noise_mean) * ((double)out[i] - noise_mean) / n;
    }
    double scale = noise_square > 0 ? sqrt(square / noise_square) : 0;
    for (int32_t i = 0; i < n; i++) out[i] = (float)(((double)out[i] - noise_mean) * scale + mean);
}

static void gather_one(const lp_donor_table *table, const lp_pair_record *from, const lp_donor_vector *vector,
                       float *out) {
    size_t bytes = (size_t)vector->width * sizeof(float);
    switch (vector->donor) {
    case LP_DONOR_ZERO: memset(out, 0, bytes); break;
    case LP_DONOR_FILE: memcpy(out, table->files + table->file_offsets[vector->vector], bytes); break;
    case LP_DONOR_RANDOM: matched_noise(table, vector, from->pair, vector_of(table, from, vector), out); break;
    case LP_DONOR_NOISE: measured_noise(table, vector, from, out); break;
    case LP_DONOR_MEAN:
        for (int32_t k = 0; k < vector->width; k++) {
            double mean = 0;
            out[k] = mean_of_others(table, from, vector, k, &mean) ? (float)mean : NAN;
        }
        break;
    case LP_DONOR_CLEAN:
    case LP_DONOR_CORRUPTED:
    case LP_DONOR_SELF:
    case LP_DONOR_SHUFFLED: memcpy(out, vector_of(table, from, vector), bytes); break;
    case LP_DONOR_TOKEN: break; /* none of its vectors is listed */
    }
}

void lp_donor_table_gather(const lp_donor_table *table, const lp_pair_record *own, float *out) {
    for (size_t i = 0; i < table->n; i++) {
        const lp_donor_vector *vector = &table->vectors[i];
        if (vector->donor != LP_DONOR_SHUFFLED) gather_one(table, own, vector, out + vector->offset);
    }
}

uint32_t lp_donor_table_other(const lp_donor_table *table, int32_t draw, int64_t pair) {
    return table->other_pair[(size_t)draw * (size_t)table->session->n_pairs + (size_t)pair];
}

void lp_donor_table_gather_draw(const lp_donor_table *table, int32_t draw, const lp_pair_record *other, float *out) {
    for (size_t i = 0; i < table->n; i++) {
        const lp_donor_vector *vector = &table->vectors[i];
        if (vector->donor != LP_DONOR_SHUFFLED || vector->vector != draw) continue;
        if (other)
            gather_one(table, other, vector, out + vector->offset);
        else
            for (int32_t k = 0; k < vector->width; k++) out[vector->offset + (size_t)k] = NAN;
    }
}

bool lp_donor_has(const float *vector) {
    return !vector || is_there(vector);
}

const float *lp_donor_table_vector(const lp_donor_table *table, const lp_replacement *what, const float *gathering) {
    return lp_replacement_takes_vector(what) ? gathering + table->vectors[what->source].offset : NULL;
}
