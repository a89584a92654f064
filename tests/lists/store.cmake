include(${CMAKE_CURRENT_LIST_DIR}/parallel.cmake)

function(lp_store_test name)
  lp_unit_test(${name} LINKS lp_store)
  set_tests_properties(unit.${name} PROPERTIES ENVIRONMENT "${LP_MPI_ENVIRONMENT}" TIMEOUT 120)
endfunction()

lp_store_test(test_record_file)
lp_store_test(test_results)
lp_store_test(test_lock)
lp_store_test(test_store_admin)

lp_mpi_program(record_writer LINKS lp_store)
# A file of its own for each number of ranks: the tests may run side by side.
foreach(ranks 1 2 4)
  add_test(NAME mpi.record_file.${ranks}
    COMMAND ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} ${ranks} $<TARGET_FILE:mpi_record_writer> same same.${ranks}.h5 40
    WORKING_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  set_tests_properties(mpi.record_file.${ranks} PROPERTIES
    ENVIRONMENT "${LP_MPI_ENVIRONMENT}" TIMEOUT 120 PROCESSORS ${ranks})
endforeach()

find_package(Python3 COMPONENTS Interpreter)
if(Python3_FOUND)
  # Not under the sanitizers, which want to be the first library that is loaded.
  if(NOT LP_SANITIZE)
    add_library(mpi_io_fault SHARED mpi/io_fault.c)
    target_compile_definitions(mpi_io_fault PRIVATE _GNU_SOURCE)
    target_link_libraries(mpi_io_fault PRIVATE ${CMAKE_DL_LIBS})
    set(LP_IO_FAULT --shim $<TARGET_FILE:mpi_io_fault>)
  endif()
  add_test(NAME mpi.faults
    COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/../mpi/faults.py $<TARGET_FILE:mpi_record_writer> ${MPIEXEC_EXECUTABLE}
            ${LP_IO_FAULT})
  set_tests_properties(mpi.faults PROPERTIES ENVIRONMENT "${LP_MPI_ENVIRONMENT}" TIMEOUT 900 COST 200
    RESOURCE_LOCK waits)
  add_test(NAME mpi.two_hosts
    COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/../mpi/two_hosts.py ${MPIEXEC_EXECUTABLE}
            $<TARGET_FILE:mpi_test_deal> $<TARGET_FILE:mpi_record_writer>)
  set_tests_properties(mpi.two_hosts PROPERTIES ENVIRONMENT "${LP_MPI_ENVIRONMENT}" TIMEOUT 240 SKIP_RETURN_CODE 77)
endif()

# By hand: the store's writing path beside plain MPI-IO.
add_executable(bench_store_write ${PROJECT_SOURCE_DIR}/bench/store_write.c)
target_link_libraries(bench_store_write PRIVATE lp_store)
