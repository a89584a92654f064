# How the sources look: clang-format, the direction of includes, ruff. Each says why where its tool is missing.
find_program(LP_CLANG_FORMAT clang-format-14)
find_package(Python3 COMPONENTS Interpreter)

add_test(NAME format.c
  COMMAND bash ${CMAKE_CURRENT_SOURCE_DIR}/format.sh ${LP_CLANG_FORMAT}
  WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
set_tests_properties(format.c PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 120)

if(Python3_FOUND)
  add_test(NAME format.includes COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/includes.py ${PROJECT_SOURCE_DIR}/src)
  add_test(NAME format.python
    COMMAND bash ${CMAKE_CURRENT_SOURCE_DIR}/format_python.sh ${Python3_EXECUTABLE}
    WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(format.python PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 120)
endif()
