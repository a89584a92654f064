#include "base/pulse.h"

_Atomic uint64_t lp_pulse_counter, lp_row_layer_counter;
