include_guard(GLOBAL)
# What several tests in C share.
add_library(lp_test_support STATIC support/golden.c support/check_backend.c)
target_include_directories(lp_test_support PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_definitions(lp_test_support PRIVATE LP_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
target_link_libraries(lp_test_support PUBLIC lp_thought lp_backend lp_model lp_token PkgConfig::CMOCKA)

# Work for the executors; bench/forward.c uses it, too, and needs no test library.
add_library(lp_test_units STATIC support/units.c)
target_include_directories(lp_test_units PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(lp_test_units PUBLIC lp_patch)
