/* Output files: the one place that makes, publishes and removes files of the user's folders.
 *
 * Nothing is ever replaced that could be somebody else's. An output is written under a temporary name that cannot be
 * guessed, in the folder of its target and made with O_EXCL | O_NOFOLLOW, flushed, and then given its name only where
 * nothing has that name, or where what has it is the very same bytes, or where the caller knows that it is the output
 * of the same work (LP_OUTPUT_OWN). The folder is flushed after that. Links in the last component of an output's path
 * are followed first: the file is made where the link points, and the link stays.
 *
 * Before anything is opened, a command lists its outputs, with the names derived from them, and its inputs
 * (lp_outputs): files are the same where device and inode are, or, of files that are not there yet, where their
 * resolved paths are. Not for several threads at once. */
#ifndef LP_BASE_OUTPUT_H
#define LP_BASE_OUTPUT_H

#include "base/file.h"

#include <signal.h>

/* ---- One output file ----------------------------------------------------------------------------------------------
 */

typedef struct {
    char *target;    /* resolved */
    char *temporary; /* NULL once published or discarded */
    int fd;          /* of the temporary file, open for reading and writing; -1 once closed */
} lp_output;

/* Makes the temporary file; the folder of the target must be there. Fails where a folder, a device or a pipe has the
 * name. {0} is an output that lp_output_discard accepts. */
lp_status lp_output_begin(const char *path, lp_output *out, lp_error *err);

typedef enum {
    LP_OUTPUT_NEW, /* what has the name must hold the same bytes */
    LP_OUTPUT_OWN  /* the caller knows that what has the name is its own: it is replaced */
} lp_output_mode;
/* Flushes the temporary file and gives it its name. LP_ERR_VALUE names what is there already. */
lp_status lp_output_publish(lp_output *out, lp_output_mode mode, lp_error *err);
/* Removes what was not published. */
void lp_output_discard(lp_output *out);
/* What the names of this process's temporary files have in common; a text of its own for every process, NULL where the
 * system gives no random numbers. A lock file says it, so that the next holder can remove what a killed one left. */
enum { LP_OUTPUT_TOKEN = 16 };
const char *lp_output_token(void);
/* Removes the temporary files of the process that had this token from the folder that `path` lies in. */
void lp_output_remove_left(const char *path, const char *token);
/* Removes the temporary files of this process, and the files remembered; for the handler of a signal that ends it. */
void lp_output_discard_all(void);
/* A file to be removed as well, such as a lock; the text is borrowed until it is forgotten. */
void lp_output_remember(char *path);
void lp_output_forget(const char *path);
/* Lets the signals that end this process wait while a file is made and remembered, or forgotten and removed; `before`
 * gets what was let through. */
void lp_output_hold_signals(sigset_t *before);
void lp_output_release_signals(const sigset_t *before);

/* All of it at once: a new file of these bytes. A device or a pipe takes the bytes as they are. */
lp_status lp_output_write(const char *path, const void *data, size_t size, lp_output_mode mode, lp_error *err);

/* ---- Outputs against inputs ---------------------------------------------------------------------------------------
 */

/* Of an output's resolved path: names derived from it, and messages about it, need room as well. */
enum { LP_OUTPUT_PATH_BYTES = 2000 };

/* A name that belongs to an output: the suffix, and what the file is, "the lock". Ends at NULL. */
typedef struct {
    const char *suffix, *word;
} lp_derived_name;
/* ".lock"; ".lock" and ".stop"; those and ".partial"; ".lock" and ".manifest.json". */
extern const lp_derived_name lp_names_locked[], lp_names_of_store[], lp_names_of_results[], lp_names_of_archive[];

typedef struct lp_named_file lp_named_file;
typedef struct {
    lp_named_file *files; /* [n] */
    size_t n, capacity;
} lp_outputs;

/* Adds the output `path`, which `where` names for messages ("job.json: $.results.csv"), with its derived names (NULL:
 * none). `where` is copied. Fails where the path is too long, where something other than a file has the name, or where
 * an earlier output has it, or a name derived from one. */
lp_status lp_outputs_add(lp_outputs *outputs, const char *where, const char *word, const char *path,
                         const lp_derived_name *derived, lp_error *err);
/* Fails where an output, or a name derived from one, is the input `path`, a file, or one of the files of a folder. */
lp_status lp_outputs_check_input(const lp_outputs *outputs, const char *word, const char *path, lp_error *err);
void lp_outputs_release(lp_outputs *outputs);

#endif
