include(${CMAKE_CURRENT_SOURCE_DIR}/support/support.cmake)

lp_unit_test(test_golden LINKS lp_test_support lp_thought)
