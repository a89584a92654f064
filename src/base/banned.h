/* Functions that this project does not use, because each has overrun a buffer or swallowed an error
 * somewhere before. Included by base/error.h, so that every source file has it. */
#ifndef LP_BASE_BANNED_H
#define LP_BASE_BANNED_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#pragma GCC poison strcpy strcat sprintf vsprintf strtok atoi atol atof gets

#endif
