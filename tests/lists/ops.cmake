# Operations: Slurm, faults, two hosts. These start daemons and jobs of their own, and say why where they cannot.
include(${CMAKE_CURRENT_LIST_DIR}/parallel.cmake)
find_package(Python3 COMPONENTS Interpreter)

# lp_ops_test(NAME SECONDS COMMAND...): tests that may take long begin first. One at a time: they mostly wait, and what
# counts computes beside them.
function(lp_ops_test name seconds)
  add_test(NAME ${name} COMMAND ${ARGN})
  set_tests_properties(${name} PROPERTIES ENVIRONMENT "${LP_MPI_ENVIRONMENT}" SKIP_RETURN_CODE 77
    TIMEOUT ${seconds} COST ${seconds} RESOURCE_LOCK waits)
endfunction()

lp_ops_test(slurm.shellcheck 60 bash ${CMAKE_CURRENT_SOURCE_DIR}/slurm/shellcheck.sh)
set(LP_SLURM_TESTS slurm.shellcheck)

# Not under the sanitizers: they are about what the processes do to each other and to files, not about memory.
if(Python3_FOUND AND NOT LP_SANITIZE)
  set(slurm ${CMAKE_CURRENT_SOURCE_DIR}/slurm)
  # Installs Slurm once, before the tests that start one.
  lp_ops_test(slurm.install 300 bash ${slurm}/install.sh)
  set_tests_properties(slurm.install PROPERTIES FIXTURES_SETUP slurm_installed LABELS slurm)
  lp_ops_test(slurm.submit 60 ${Python3_EXECUTABLE} ${slurm}/test_submit.py)
  foreach(part Chain Stops)
    string(TOLOWER ${part} lower)
    lp_ops_test(slurm.${lower} 400
      ${Python3_EXECUTABLE} ${slurm}/test_slurm.py $<TARGET_FILE:latentpatch> ${MPIEXEC_EXECUTABLE} ${part})
    set_tests_properties(slurm.${lower} PROPERTIES FIXTURES_REQUIRED slurm_installed)
    list(APPEND LP_SLURM_TESTS slurm.${lower})
  endforeach()
  list(APPEND LP_SLURM_TESTS slurm.submit)

  add_library(faults_shim SHARED faults/fault.c)
  target_compile_definitions(faults_shim PRIVATE _GNU_SOURCE)
  target_link_libraries(faults_shim PRIVATE ${CMAKE_DL_LIBS})
  lp_ops_test(faults.short 400
    ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/faults/faults.py $<TARGET_FILE:latentpatch> ${MPIEXEC_EXECUTABLE}
      --shim $<TARGET_FILE:faults_shim>)
  lp_ops_test(netns.two_hosts 200
    ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/netns/two_hosts.py $<TARGET_FILE:latentpatch> ${MPIEXEC_EXECUTABLE})
endif()
set_tests_properties(${LP_SLURM_TESTS} PROPERTIES LABELS slurm)
