include(${CMAKE_CURRENT_LIST_DIR}/fuzz.cmake)

lp_unit_test(test_tokenizer LINKS lp_token)
lp_fuzz_target(tokenizer LINKS lp_token)
lp_fuzz_target(vocabulary LINKS lp_token)

# Random texts, compared with the `tokenizers` package where a Python has it.
add_executable(tokenizer_driver unit/tokenizer_driver.c)
target_link_libraries(tokenizer_driver PRIVATE lp_token)
set_target_properties(tokenizer_driver PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
find_package(Python3 COMPONENTS Interpreter)
if(Python3_FOUND)
  add_test(NAME parity.tokenizer_random
    COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/tokenizer_random.py $<TARGET_FILE:tokenizer_driver>)
  set_tests_properties(parity.tokenizer_random PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 300)
endif()
