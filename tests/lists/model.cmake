include(${CMAKE_CURRENT_LIST_DIR}/fuzz.cmake)

lp_unit_test(test_safetensors LINKS lp_model)
lp_unit_test(test_torchbin LINKS lp_model)
lp_unit_test(test_hfconfig LINKS lp_model)
lp_unit_test(test_model LINKS lp_model)
lp_unit_test(test_model_errors LINKS lp_model)
lp_unit_test(test_merge LINKS lp_model)

lp_fuzz_target(safetensors LINKS lp_model)
lp_fuzz_target(torchzip LINKS lp_model)
lp_fuzz_target(pickle LINKS lp_model)
lp_fuzz_target(hfconfig LINKS lp_model)
