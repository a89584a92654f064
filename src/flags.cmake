# Compiler flags of every target, and the helper that declares a folder's library.
add_library(lp_flags INTERFACE)
target_compile_definitions(lp_flags INTERFACE _GNU_SOURCE)
target_include_directories(lp_flags INTERFACE ${CMAKE_CURRENT_LIST_DIR})
# No contraction: a*b+c is rounded the same way in every build of the same source, unless a kernel asks for fma().
target_compile_options(lp_flags INTERFACE
  -Wall -Wextra -Wshadow -Wconversion -Wpedantic -Wstrict-prototypes -Wmissing-prototypes
  -Wformat=2 -Wvla -fno-math-errno -ffp-contract=off)
# What assert() says names a file from the top of the repository, wherever it was built.
get_filename_component(LP_TOP ${CMAKE_CURRENT_LIST_DIR} DIRECTORY)
target_compile_options(lp_flags INTERFACE $<$<COMPILE_LANGUAGE:C>:-fmacro-prefix-map=${LP_TOP}/=>)
if(LP_WERROR)
  target_compile_options(lp_flags INTERFACE -Werror)
endif()
if(LP_SANITIZE)
  target_compile_options(lp_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=undefined
    -fno-omit-frame-pointer)
  target_link_options(lp_flags INTERFACE -fsanitize=address,undefined)
endif()
if(LP_FUZZ)
  target_compile_options(lp_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

# lp_library(NAME SOURCES ... LINKS ...): static library lp_NAME of the calling folder.
function(lp_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINKS" ${ARGN})
  add_library(lp_${name} STATIC ${ARG_SOURCES})
  target_link_libraries(lp_${name} PUBLIC lp_flags ${ARG_LINKS})
endfunction()
