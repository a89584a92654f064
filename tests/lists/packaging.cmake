# What is installed, from an empty prefix.
include(${CMAKE_CURRENT_LIST_DIR}/parallel.cmake)
find_package(Python3 COMPONENTS Interpreter)
if(Python3_FOUND AND NOT LP_SANITIZE)
  add_test(NAME packaging.installed
    COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/packaging/installed.py ${CMAKE_BINARY_DIR} ${MPIEXEC_EXECUTABLE})
  set_tests_properties(packaging.installed PROPERTIES ENVIRONMENT "${LP_MPI_ENVIRONMENT}" TIMEOUT 120)
endif()
