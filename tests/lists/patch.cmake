include(${CMAKE_CURRENT_SOURCE_DIR}/support/support.cmake)

lp_unit_test(test_condition LINKS lp_patch)
lp_unit_test(test_expand LINKS lp_patch)
lp_unit_test(test_pages LINKS lp_test_support lp_patch)
lp_unit_test(test_metrics LINKS lp_test_support lp_test_units)
lp_unit_test(test_metric_position LINKS lp_test_support lp_patch)
lp_unit_test(test_lens LINKS lp_test_support lp_test_units)
lp_unit_test(test_patched_golden LINKS lp_test_support lp_test_units)
