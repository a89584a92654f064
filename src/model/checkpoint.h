/* A checkpoint: the tensors of one weight file, or of a folder with one or several of them.
 *
 * Owns the maps of its files and the list of their tensors. The format of a file is told by its first bytes, never by
 * its name. Knows nothing of what the tensors are for. */
#ifndef LP_MODEL_CHECKPOINT_H
#define LP_MODEL_CHECKPOINT_H

#include "base/digest.h"
#include "base/file.h"
#include "model/tensor_source.h"

typedef struct {
    char *path;  /* as opened */
    char *label; /* role and name for provenance: "base/model.safetensors" */
    lp_mapped_file map;
    char sha256[LP_SHA256_HEX]; /* empty until lp_digests_wait */
} lp_checkpoint_file;

typedef struct {
    lp_checkpoint_file **files; /* [n_files]: the index first where there is one */
    size_t n_files, file_capacity;
    lp_tensor_list tensors;
} lp_checkpoint;

/* Maps a file and adds it; *out is borrowed. role ("base", "codi") begins its label. Fails on what is no
 * checkpoint at all (lp_checkpoint_sniff). */
lp_status lp_checkpoint_add_file(lp_checkpoint *checkpoint, const char *path, const char *role,
                                 const lp_checkpoint_file **out, lp_error *err);

/* Adds the weights at `path`: a file, or a folder with (in this order of preference) model.safetensors,
 * model.safetensors.index.json, pytorch_model.bin or pytorch_model.bin.index.json. Fails naming what was looked for. */
lp_status lp_checkpoint_add_weights(lp_checkpoint *checkpoint, const char *path, const char *role, lp_error *err);

void lp_checkpoint_release(lp_checkpoint *checkpoint);

#endif
