include(${CMAKE_CURRENT_LIST_DIR}/parallel.cmake)

# lp_cli_test(NAME SCRIPT [CLASS ...]): black-box tests of the program, tests/cli/SCRIPT.py; by class, so that they run
# side by side.
function(lp_cli_test name script)
  add_test(NAME cli.${name}
    COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/cli/${script}.py $<TARGET_FILE:latentpatch>
      ${MPIEXEC_EXECUTABLE} ${ARGN})
  set(environment ${LP_CLI_ENVIRONMENT})
  if(name IN_LIST LP_LEAK_TESTS)
    list(REMOVE_ITEM environment ASAN_OPTIONS=detect_leaks=0)
    list(APPEND environment ASAN_OPTIONS=fast_unwind_on_malloc=0)
  endif()
  set_tests_properties(cli.${name} PROPERTIES ENVIRONMENT "${environment}" SKIP_RETURN_CODE 77 TIMEOUT 600)
endfunction()

# Leaks of our own are looked for in the tests that run every command to its end; those of Open MPI are known
# (tests/lsan.supp). A process that starts MPI takes 1.4 s of processor time with the check and 0.15 without, so the
# tests of many refusals go without.
set(LP_LEAK_TESTS usage bad_pairs store_layout init texts pair_exits kinds read_only steps donors)
set(LP_CLI_ENVIRONMENT ${LP_MPI_ENVIRONMENT}
  LSAN_OPTIONS=suppressions=${CMAKE_CURRENT_SOURCE_DIR}/lsan.supp:print_suppressions=0)

if(LP_SANITIZE)
  list(APPEND LP_CLI_ENVIRONMENT LATENTPATCH_TEST_MAX_RANKS=1)
endif()

find_package(Python3 COMPONENTS Interpreter)
if(Python3_FOUND)
  lp_cli_test(usage bad_input Usage)
  lp_cli_test(bad_job bad_input BadJob)
  lp_cli_test(bad_pairs bad_input BadPairs)
  lp_cli_test(bad_model bad_input BadModel)
  lp_cli_test(layouts layouts)
  lp_cli_test(bad_files bad_input BadFiles)
  lp_cli_test(full_disk bad_input FullDisk)
  lp_cli_test(results_of_others identity Results)
  lp_cli_test(store_of_others identity Store)
  lp_cli_test(store_layout store_file Layout)
  lp_cli_test(store_altered store_file Altered)
  lp_cli_test(store_older store_file Older)
  # The sanitizers reserve more address space than the test allows.
  if(NOT LP_SANITIZE)
    lp_cli_test(address_space outputs AddressSpace)
    lp_cli_test(store_greedy store_file Greedy)
    add_test(NAME cli.input_memory
      COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/bench/input_memory.py $<TARGET_FILE:latentpatch>
        "pickle: lists" "safetensors: metadata" "job: groups" "pairs, our"
        --megabytes 1.5)
    set_tests_properties(cli.input_memory PROPERTIES ENVIRONMENT "${LP_CLI_ENVIRONMENT}" TIMEOUT 300)
  endif()
  lp_cli_test(own_files identity Paths)
  # Damaged stores, results, archives and job folders: 100 by the program, 300 by its readers in one process.
  add_executable(mutation_driver unit/mutation_driver.c)
  target_link_libraries(mutation_driver PRIVATE lp_job lp_report lp_patch)
  set_target_properties(mutation_driver PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME cli.mutations
    COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/mutate.py $<TARGET_FILE:latentpatch> --count 100)
  add_test(NAME cli.mutations_in_one_process
    COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/mutate.py $<TARGET_FILE:latentpatch> --count 300
      --driver $<TARGET_FILE:mutation_driver>)
  set_tests_properties(cli.mutations cli.mutations_in_one_process PROPERTIES
    ENVIRONMENT "${LP_CLI_ENVIRONMENT}" SKIP_RETURN_CODE 77 TIMEOUT 900)
  lp_cli_test(early_refusal identity Early)
  lp_cli_test(output command_line Output)
  lp_cli_test(texts command_line Texts)
  lp_cli_test(table command_line Table)
  lp_cli_test(pair_exits command_line PairExits)
  lp_cli_test(completion command_line Completion)
  lp_cli_test(init command_line Init)
  foreach(class Copies Sides Pairs Ends FileSize)
    string(TOLOWER ${class} name)
    lp_cli_test(outputs_${name} outputs ${class})
  endforeach()
  lp_cli_test(outputs program Outputs)
  lp_cli_test(stop program Stop)
  lp_cli_test(progress program Progress)
  lp_cli_test(signals program Signals)
  lp_cli_test(read_only program ReadOnly)
  lp_cli_test(launch program Launch)
  lp_cli_test(ranks ranks Ranks)
  lp_cli_test(locking ranks Locking)
  lp_cli_test(kill ranks Kill)
  lp_cli_test(kinds ranks Kinds)
  lp_cli_test(invariants ranks Invariants)
  lp_cli_test(addresses ranks Addresses)
  lp_cli_test(donors donors Donors)
  lp_cli_test(donors_golden donors Golden)
  lp_cli_test(steps steps)
  # The sanitizer keeps freed memory: peaks say nothing there.
  if(NOT LP_SANITIZE)
    lp_cli_test(memory program Memory)
  endif()
endif()
