lp_unit_test(test_base LINKS lp_base)
lp_unit_test(test_random LINKS lp_base)
lp_unit_test(test_json LINKS lp_base)
lp_unit_test(test_npy LINKS lp_base)
