/* A backend for tests around another one in the host's memory: it checks that every pointer and size lies inside an
 * allocation, that indices are in range, that nothing reads what was never written, and that padding rows hold nothing
 * that anybody needs.
 *
 * New memory, outputs before a call, and padding rows around a call are filled with NaN; a result with a NaN in it is
 * an error that names the operation. Values are the inner backend's, to the bit. */
#ifndef LP_TESTS_CHECK_BACKEND_H
#define LP_TESTS_CHECK_BACKEND_H

#include "backend/backend.h"

/* Takes `inner`: it is freed with the new one. */
lp_status lp_backend_check_new(lp_backend *inner, lp_backend **out, lp_error *err);

#endif
