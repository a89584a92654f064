lp_unit_test(test_safetensors LINKS lp_model)
lp_unit_test(test_hfconfig LINKS lp_model)
lp_unit_test(test_model LINKS lp_model)
