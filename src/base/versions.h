/* Versions of a function for several instruction sets, chosen when the program starts. Every version does the same
 * operations in the same order (no contraction, no reassociation), so they give the same bits. Not under the
 * sanitizers, whose start-up the choice would precede. */
#ifndef LP_BASE_VERSIONS_H
#define LP_BASE_VERSIONS_H

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&               \
    defined(__OPTIMIZE__)
#define LP_VERSIONS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define LP_VERSIONS
#endif

#endif
