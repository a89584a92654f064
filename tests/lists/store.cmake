include(${CMAKE_CURRENT_LIST_DIR}/parallel.cmake)

function(lp_store_test name)
  lp_unit_test(${name} LINKS lp_store)
  set_tests_properties(unit.${name} PROPERTIES ENVIRONMENT "${LP_MPI_ENVIRONMENT}" TIMEOUT 120)
endfunction()

lp_store_test(test_pair_file)
lp_store_test(test_results)
