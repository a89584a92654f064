/* JSON values read one after the other, for arrays and objects that are too long to become a tree.
 *
 * A stream lies over a value that lp_json_parse_around left out. Its text is well-formed UTF-8 without NUL, and its
 * numbers are those of JSON; everything else is checked while it is read, and fails with line and column. */
#ifndef LP_BASE_JSON_STREAM_H
#define LP_BASE_JSON_STREAM_H

#include "base/json.h"
#include "base/text.h"

typedef struct {
    const char *text; /* of the whole document; borrowed, as is file */
    size_t at, end;
    const char *file;
    bool begun;     /* the container that is walked had a member already */
    lp_text string; /* the last one read, without quotes and escapes */
} lp_json_stream;   /* {0}; release frees the string */

/* Places the stream after the bracket that opens the value; it may lie over another one already. */
void lp_json_stream_begin(lp_json_stream *stream, const char *text, const char *file, const lp_json_cut *cut);
void lp_json_stream_release(lp_json_stream *stream);
/* *more: another member of the outermost container comes now, after its comma; otherwise it has ended. */
lp_status lp_json_stream_more(lp_json_stream *stream, bool *more, lp_error *err);
/* Skips white space, then takes the character if it is there. */
bool lp_json_stream_take(lp_json_stream *stream, char c);
/* Whether a string comes now. */
bool lp_json_stream_at_string(lp_json_stream *stream);
/* stream->string = the string that comes now. */
lp_status lp_json_stream_string(lp_json_stream *stream, lp_error *err);
/* The number that comes now; false, with nothing taken, where something else does. */
bool lp_json_stream_number(lp_json_stream *stream, double *out);
/* LP_ERR_FORMAT: "FILE:LINE:COLUMN: malformed JSON" at the place of the stream. */
lp_status lp_json_stream_fail(const lp_json_stream *stream, lp_error *err);

#endif
