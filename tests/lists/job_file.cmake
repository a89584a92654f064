lp_unit_test(test_job LINKS lp_job lp_patch)
