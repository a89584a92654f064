include(${CMAKE_CURRENT_SOURCE_DIR}/support/support.cmake)

lp_unit_test(test_site LINKS lp_nn)
lp_unit_test(test_rope LINKS lp_nn)
lp_unit_test(test_batch_lists LINKS lp_test_support lp_nn)
lp_unit_test(test_protocol LINKS lp_test_support lp_thought)
lp_unit_test(test_golden LINKS lp_test_support lp_thought)
