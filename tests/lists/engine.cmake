include(${CMAKE_CURRENT_SOURCE_DIR}/support/support.cmake)
add_library(lp_test_engine_support STATIC unit/test_engine_support.c)
target_include_directories(lp_test_engine_support PUBLIC ${CMAKE_CURRENT_SOURCE_DIR}/unit)
target_link_libraries(lp_test_engine_support PUBLIC lp_test_support lp_test_units)

lp_unit_test(test_engine LINKS lp_test_engine_support)
lp_unit_test(test_engine_work LINKS lp_test_engine_support)
lp_unit_test(test_same_conditions LINKS lp_test_engine_support)
lp_unit_test(test_gemm LINKS lp_base)
lp_unit_test(test_backend LINKS lp_test_support lp_nn)

# Parity and invariance with each kernel set that is not the best one. The programs that take long run a subset there.
# AVX-512 and AVX2 give the same bits (test_gemm), so that one of them is enough for what is left out. The sanitizers see
# nothing new there: the three sets are one C source, and test_gemm runs them all.
if(NOT LP_SANITIZE)
  foreach(kernels avx2 baseline)
    foreach(program test_golden test_patched_golden test_same_conditions test_engine test_engine_work)
      add_test(NAME unit.${program}.${kernels} COMMAND ${program} WORKING_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
      set_tests_properties(unit.${program}.${kernels} PROPERTIES SKIP_RETURN_CODE 77
        ENVIRONMENT "OMP_WAIT_POLICY=passive;LATENTPATCH_KERNELS=${kernels};LP_TEST_QUICK=1")
    endforeach()
  endforeach()
endif()

# Micro-benchmarks (bench/RESULTS.md); built with the tests so that they keep compiling, not run by ctest.
add_executable(bench_micro ${PROJECT_SOURCE_DIR}/bench/micro.c)
target_link_libraries(bench_micro PRIVATE lp_nn)
pkg_check_modules(OPENBLAS IMPORTED_TARGET openblas) # what the rate of our own products is compared with
if(OPENBLAS_FOUND)
  add_executable(bench_gemm_peak ${PROJECT_SOURCE_DIR}/bench/gemm_peak.c)
  target_compile_definitions(bench_gemm_peak PRIVATE _POSIX_C_SOURCE=200809L)
  target_link_libraries(bench_gemm_peak PRIVATE PkgConfig::OPENBLAS)
endif()
add_executable(bench_forward ${PROJECT_SOURCE_DIR}/bench/forward.c)
target_link_libraries(bench_forward PRIVATE lp_test_units)
