# The conformance program stands beside `latentpatch`, where the CUDA module is looked for. It needs no test library, so
# that it can be carried to a GPU machine; tests/cuda/run_on_gpu.sh runs it there.
add_executable(lp_conformance cuda/conformance.c cuda/conformance_attention.c cuda/conformance_shapes.c
  cuda/conformance_weights.c)
target_link_libraries(lp_conformance PRIVATE lp_backend)
target_include_directories(lp_conformance PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
if(TARGET latentpatch_cuda)
  add_dependencies(lp_conformance latentpatch_cuda)
endif()

add_test(NAME cuda.conformance.cpu COMMAND lp_conformance cpu small)
foreach(dtype fp32 tf32 bf16 fp32-tc)
  add_test(NAME cuda.conformance.${dtype} COMMAND lp_conformance cuda ${dtype})
  set_tests_properties(cuda.conformance.${dtype} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 900)
endforeach()
set_tests_properties(cuda.conformance.cpu PROPERTIES TIMEOUT 900)

lp_unit_test(test_device LINKS lp_backend)
if(TARGET latentpatch_cuda)
  # The targets that the module must carry code for: read from the module itself.
  if(Python3_FOUND)
    add_test(NAME cuda.architectures
      COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/cuda/architectures.py $<TARGET_FILE:latentpatch_cuda>
        sm_80 sm_90 compute_90)
  endif()
endif()

# The same backend on an emulated device: its kernels rewritten for the host's compiler, one thread after the other, and
# the few functions of CUDA's libraries that it uses on the host. So kernels and host code are tested where no GPU is.
if(TARGET latentpatch_cuda AND Python3_FOUND)
  enable_language(CXX)
  set(emulated ${CMAKE_BINARY_DIR}/emulated)
  set(emulator ${CMAKE_CURRENT_SOURCE_DIR}/cuda/emulator)
  set(emulated_kernels)
  foreach(kernels rows split attention attention_bf16 probe merge)
    set(source ${PROJECT_SOURCE_DIR}/src/backend/cuda/${kernels}.cu)
    add_custom_command(OUTPUT ${emulated}/${kernels}.cpp
      COMMAND ${CMAKE_COMMAND} -E make_directory ${emulated}
      COMMAND ${Python3_EXECUTABLE} ${emulator}/kernels_on_cpu.py ${source} ${emulated}/${kernels}.cpp
      DEPENDS ${source} ${PROJECT_SOURCE_DIR}/src/backend/cuda/split.cuh ${emulator}/kernels_on_cpu.py)
    list(APPEND emulated_kernels ${emulated}/${kernels}.cpp)
  endforeach()
  # C++ without the flags that are for C.
  add_library(lp_cuda_emulator OBJECT ${emulated_kernels} ${emulator}/device.cpp ${emulator}/libraries.cpp)
  target_compile_options(lp_cuda_emulator PRIVATE -O3 -w -ffp-contract=off -U_FORTIFY_SOURCE)
  set(backend ${PROJECT_SOURCE_DIR}/src/backend/cuda)
  add_library(latentpatch_cuda_emulated MODULE $<TARGET_OBJECTS:lp_cuda_emulator>
    ${backend}/cuda.c ${backend}/cuda_memory.c ${backend}/cuda_linear.c
    ${backend}/cuda_weights.c ${backend}/plan.c ${PROJECT_SOURCE_DIR}/src/model/tensor_source.c
    ${PROJECT_SOURCE_DIR}/src/model/weight_source.c)
  foreach(target lp_cuda_emulator latentpatch_cuda_emulated)
    target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/src ${CMAKE_CURRENT_SOURCE_DIR})
    target_include_directories(${target} SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  endforeach()
  set_target_properties(lp_cuda_emulator PROPERTIES CXX_STANDARD 17)
  target_link_libraries(latentpatch_cuda_emulated PRIVATE lp_base)
  target_link_options(latentpatch_cuda_emulated PRIVATE -Wl,--exclude-libs,ALL -Wl,-Bsymbolic)
  set_target_properties(latentpatch_cuda_emulated PROPERTIES C_VISIBILITY_PRESET hidden LINKER_LANGUAGE CXX
    OUTPUT_NAME latentpatch_cuda LIBRARY_OUTPUT_DIRECTORY ${emulated})
  # The module is looked for beside the executable.
  add_executable(lp_conformance_emulated cuda/conformance.c cuda/conformance_attention.c cuda/conformance_shapes.c
  cuda/conformance_weights.c)
  target_link_libraries(lp_conformance_emulated PRIVATE lp_backend)
  target_include_directories(lp_conformance_emulated PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  set_target_properties(lp_conformance_emulated PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${emulated})
  add_dependencies(lp_conformance_emulated latentpatch_cuda_emulated)
  foreach(dtype fp32 bf16 fp32-tc)
    add_test(NAME cuda.emulated.${dtype} COMMAND lp_conformance_emulated cuda ${dtype} small)
    set_tests_properties(cuda.emulated.${dtype} PROPERTIES COST 100 TIMEOUT 900)
  endforeach()
  add_test(NAME cuda.emulated.demo COMMAND bash ${CMAKE_CURRENT_SOURCE_DIR}/cuda/emulated_demo.sh
    $<TARGET_FILE:latentpatch> ${emulated} ${PROJECT_SOURCE_DIR}/jobs/demo-gpt2.json)
  set_tests_properties(cuda.emulated.demo PROPERTIES COST 100 TIMEOUT 900 ENVIRONMENT "${LP_MPI_ENVIRONMENT}")
  # The engine on it: batches that overlap, logit queries on the device.
  add_executable(test_engine_emulated unit/test_engine.c)
  target_link_libraries(test_engine_emulated PRIVATE lp_test_engine_support PkgConfig::CMOCKA)
  target_include_directories(test_engine_emulated PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_compile_definitions(test_engine_emulated PRIVATE LP_SOURCE_DIR="${PROJECT_SOURCE_DIR}" LP_TEST_CUDA)
  set_target_properties(test_engine_emulated PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${emulated})
  add_dependencies(test_engine_emulated latentpatch_cuda_emulated)
  add_test(NAME cuda.emulated.engine COMMAND test_engine_emulated)
  set_tests_properties(cuda.emulated.engine PROPERTIES COST 100 TIMEOUT 900)
  # Whole models, as transformers and peft wrote them.
  add_executable(test_weights_emulated unit/test_weights.c)
  target_link_libraries(test_weights_emulated PRIVATE lp_nn PkgConfig::CMOCKA)
  target_compile_definitions(test_weights_emulated PRIVATE LP_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  set_target_properties(test_weights_emulated PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${emulated})
  add_dependencies(test_weights_emulated latentpatch_cuda_emulated)
  add_test(NAME cuda.emulated.weights COMMAND test_weights_emulated)
  set_tests_properties(cuda.emulated.weights PROPERTIES COST 100 TIMEOUT 900)
  # And the program.
  include(${CMAKE_CURRENT_LIST_DIR}/parallel.cmake)
  add_custom_target(latentpatch_emulated ALL
    COMMAND ${CMAKE_COMMAND} -E copy_if_different $<TARGET_FILE:latentpatch> ${emulated}/latentpatch
    DEPENDS latentpatch latentpatch_cuda_emulated)
  add_test(NAME cuda.emulated.program
    COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/cli/device.py ${emulated}/latentpatch ${MPIEXEC_EXECUTABLE})
  set_tests_properties(cuda.emulated.program PROPERTIES COST 100 ENVIRONMENT "${LP_MPI_ENVIRONMENT}" TIMEOUT 600)
endif()
