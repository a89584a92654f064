include(${CMAKE_CURRENT_LIST_DIR}/fuzz.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/parallel.cmake)

lp_unit_test(test_job LINKS lp_job lp_patch)
lp_fuzz_target(job LINKS lp_job lp_patch)

# Schemas against files, and against the reader, where a Python has the package jsonschema.
add_executable(job_driver unit/job_driver.c)
target_link_libraries(job_driver PRIVATE lp_job lp_patch)
set_target_properties(job_driver PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
find_package(Python3 COMPONENTS Interpreter)
if(Python3_FOUND)
  add_test(NAME schemas
    COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/test_schemas.py $<TARGET_FILE:job_driver>
      $<TARGET_FILE:latentpatch>)
  set_tests_properties(schemas PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 120 ENVIRONMENT "${LP_MPI_ENVIRONMENT}")
endif()
