include(${CMAKE_CURRENT_SOURCE_DIR}/support/support.cmake)
add_library(lp_test_engine_support STATIC unit/test_engine_support.c)
target_include_directories(lp_test_engine_support PUBLIC ${CMAKE_CURRENT_SOURCE_DIR}/unit)
target_link_libraries(lp_test_engine_support PUBLIC lp_test_support lp_patch)

lp_unit_test(test_engine LINKS lp_test_engine_support)
