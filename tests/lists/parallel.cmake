include_guard(GLOBAL)
# Open MPI as root, with more ranks than cores, in containers.
set(LP_MPI_ENVIRONMENT
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
  PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe PRTE_MCA_hwloc_default_binding_policy=none
  OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
  OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1
  # Open MPI and HDF5 keep memory until the process ends.
  ASAN_OPTIONS=detect_leaks=0)

# lp_mpi_program(NAME LINKS ...): tests/mpi/NAME.c. lp_mpi_test(NAME RANKS ... [ARGS ...]): one test a number of ranks.
function(lp_mpi_program name)
  cmake_parse_arguments(ARG "" "" "LINKS" ${ARGN})
  add_executable(mpi_${name} mpi/${name}.c)
  target_link_libraries(mpi_${name} PRIVATE ${ARG_LINKS})
  target_include_directories(mpi_${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  set_target_properties(mpi_${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
endfunction()

function(lp_mpi_test name)
  cmake_parse_arguments(ARG "" "" "RANKS;ARGS" ${ARGN})
  foreach(ranks ${ARG_RANKS})
    add_test(NAME mpi.${name}.${ranks}
      COMMAND ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} ${ranks} $<TARGET_FILE:mpi_${name}> ${ARG_ARGS}
      WORKING_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
    set_tests_properties(mpi.${name}.${ranks} PROPERTIES
      ENVIRONMENT "${LP_MPI_ENVIRONMENT}" TIMEOUT 120 PROCESSORS ${ranks})
  endforeach()
endfunction()

lp_mpi_program(test_deal LINKS lp_parallel)
lp_mpi_test(test_deal RANKS 1 2 4)

lp_mpi_program(test_watch LINKS lp_parallel)
lp_mpi_test(test_watch RANKS 1 2 4)
foreach(ranks 1 3)
  add_test(NAME mpi.test_watch.stuck.${ranks}
    COMMAND ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} ${ranks} $<TARGET_FILE:mpi_test_watch> stuck)
  math(EXPR last "${ranks} - 1")
  set_tests_properties(mpi.test_watch.stuck.${ranks} PROPERTIES ENVIRONMENT "${LP_MPI_ENVIRONMENT}" TIMEOUT 60
    PROCESSORS ${ranks} PASS_REGULAR_EXPRESSION
    "error: rank ${last} .* hangs: not moved for 2 s .engine.hang_limit., in hand: unit 7")
endforeach()

lp_unit_test(test_dealer LINKS lp_parallel)
