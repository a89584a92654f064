# Every job of jobs/, the demo jobs on both demo models: batched engine = reference executor, row by row; see
# tests/jobs/run_job.py.
find_package(Python3 COMPONENTS Interpreter)
include(${CMAKE_CURRENT_LIST_DIR}/parallel.cmake)


if(Python3_FOUND)
  file(GLOB jobs CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR}/jobs ${PROJECT_SOURCE_DIR}/jobs/*.json)
  foreach(job ${jobs})
    string(REGEX REPLACE "^demo-|\\.json$" "" name ${job})
    if(NOT job MATCHES "^demo-")
      string(PREPEND name "public-")
    endif()
    foreach(model gpt2 llama)
      # Jobs that are written for one model end in its name.
      if(name MATCHES "(^|-)(gpt2|llama)$" AND NOT name MATCHES "(^|-)${model}$")
        continue()
      endif()
      set(limit 4)
      if(name MATCHES "^(full|subsets|flip|positions|latents|steps|labels|ablation-.*|kv-.*|next-steps|attention-ablation|edits|public-.*)$")
        set(limit 2)
      endif()
      add_test(NAME jobs.${name}.${model}
        COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/jobs/run_job.py $<TARGET_FILE:latentpatch> ${job} ${model}
          ${limit})
      set_tests_properties(jobs.${name}.${model} PROPERTIES ENVIRONMENT "${LP_MPI_ENVIRONMENT}" TIMEOUT 300)
    endforeach()
  endforeach()
endif()

if(Python3_FOUND)
  # Transformers + peft + hooks against the program, with each defect on and off; needs LATENTPATCH_TORCH_PYTHON.
  foreach(model gpt2 llama)
    add_test(NAME oracle.${model}
      COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/jobs/oracle.py $<TARGET_FILE:latentpatch> ${model} 2)
    set_tests_properties(oracle.${model} PROPERTIES
      ENVIRONMENT "${LP_MPI_ENVIRONMENT}" SKIP_RETURN_CODE 77 TIMEOUT 600)
  endforeach()
endif()
