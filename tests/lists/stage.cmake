include(${CMAKE_CURRENT_SOURCE_DIR}/support/support.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/parallel.cmake)

lp_unit_test(test_stage LINKS lp_test_support lp_stage)
lp_unit_test(test_sweep_identity LINKS lp_test_support lp_stage)
set_tests_properties(unit.test_stage unit.test_sweep_identity PROPERTIES ENVIRONMENT "${LP_MPI_ENVIRONMENT}")
