# Everything outside this repository that the build needs, each with a message that says how to get it.
find_package(PkgConfig REQUIRED)

function(lp_missing what debian cluster)
  message(FATAL_ERROR
    "latentpatch needs ${what}, which was not found.\n"
    "  Debian/Ubuntu: apt-get install ${debian}\n"
    "  Cluster:       ${cluster}")
endfunction()

find_package(MPI COMPONENTS C)
if(NOT MPI_C_FOUND)
  lp_missing("an MPI library" "libopenmpi-dev openmpi-bin" "module load openmpi, or cmake -DMPI_C_COMPILER=/path/to/mpicc")
endif()

set(HDF5_PREFER_PARALLEL ON)
find_package(HDF5 COMPONENTS C)
if(NOT HDF5_FOUND)
  lp_missing("parallel HDF5" "libhdf5-openmpi-dev hdf5-tools" "module load hdf5 (a parallel build), or cmake -DHDF5_ROOT=/path/to/hdf5")
endif()
if(NOT HDF5_IS_PARALLEL)
  lp_missing("a parallel HDF5 (the one found, ${HDF5_C_LIBRARIES}, is serial)" "libhdf5-openmpi-dev"
    "module load a parallel hdf5, or cmake -DHDF5_ROOT=/path/to/parallel/hdf5")
endif()
if(NOT TARGET hdf5::hdf5)
  add_library(hdf5::hdf5 INTERFACE IMPORTED)
  target_include_directories(hdf5::hdf5 INTERFACE ${HDF5_C_INCLUDE_DIRS})
  target_link_libraries(hdf5::hdf5 INTERFACE ${HDF5_C_LIBRARIES})
endif()

function(lp_pkg target module what debian)
  pkg_check_modules(${target} IMPORTED_TARGET GLOBAL ${module})
  if(NOT ${target}_FOUND)
    lp_missing("${what}" "${debian}" "put the folder of ${module}.pc on PKG_CONFIG_PATH (module load ${module}, or your own build)")
  endif()
endfunction()

lp_pkg(CJSON libcjson "cJSON" "libcjson-dev")
lp_pkg(PCRE2 libpcre2-8 "PCRE2 (8 bit)" "libpcre2-dev")
lp_pkg(OPENBLAS openblas "OpenBLAS" "libopenblas-dev")
lp_pkg(CRYPTO libcrypto "OpenSSL's libcrypto (SHA-256)" "libssl-dev")
find_package(OpenMP COMPONENTS C)
if(NOT OpenMP_C_FOUND)
  lp_missing("OpenMP in the C compiler" "gcc" "use gcc, or a clang with libomp")
endif()
if(LP_TESTS)
  lp_pkg(CMOCKA cmocka "cmocka (or pass -DLP_TESTS=OFF)" "libcmocka-dev")
endif()
