include(${CMAKE_CURRENT_LIST_DIR}/fuzz.cmake)

lp_unit_test(test_rational LINKS lp_problems)
lp_unit_test(test_pairs LINKS lp_problems)
lp_unit_test(test_pairs_graph LINKS lp_problems)
lp_unit_test(test_pairs_make LINKS lp_problems)
lp_unit_test(test_pairs_check LINKS lp_problems)
lp_unit_test(test_classify LINKS lp_pairs)
lp_fuzz_target(classify LINKS lp_pairs)
lp_fuzz_target(pairs LINKS lp_problems)

# The JSON Schema accepts what the program accepts (needs the jsonschema package), and every pair made from the outside
# data is derived again by independent code.
add_executable(pairs_driver unit/pairs_driver.c)
target_link_libraries(pairs_driver PRIVATE lp_pairs)
set_target_properties(pairs_driver PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
find_package(Python3 COMPONENTS Interpreter)
if(Python3_FOUND)
  add_test(NAME schema.pairs
    COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/pairs_schema.py $<TARGET_FILE:pairs_driver>)
  add_test(NAME audit.pairs
    COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/audit_pairs.py --program $<TARGET_FILE:latentpatch>)
  set_tests_properties(schema.pairs audit.pairs PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 300)
endif()
