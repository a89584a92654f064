#include "backend/backend.h"

void lp_backend_free(lp_backend *be) {
    if (be) be->free(be);
}
