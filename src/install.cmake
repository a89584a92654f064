# cmake --install, and packages of it (cpack). The layout below the prefix:
#   bin/latentpatch                  the program
#   lib/latentpatch/                 the CUDA backend, which the program looks for beside itself (src/backend/device.c)
#   share/latentpatch/               schemas, jobs with the demo models, slurm, the Python package's source
#   share/doc/latentpatch/           README, docs, licence
# What is installed runs from wherever the prefix is moved to.
include(GNUInstallDirs)
install(TARGETS latentpatch RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
if(LP_HAVE_CUDA)
  install(TARGETS latentpatch_cuda LIBRARY DESTINATION lib/latentpatch)
endif()
set(LP_SHARE ${CMAKE_INSTALL_DATADIR}/latentpatch)
set(LP_LEFT_OUT PATTERN "__pycache__" EXCLUDE PATTERN "*.egg-info" EXCLUDE PATTERN ".*_cache" EXCLUDE PATTERN "build" EXCLUDE)
install(DIRECTORY schemas DESTINATION ${LP_SHARE})
install(DIRECTORY jobs DESTINATION ${LP_SHARE} PATTERN "train" EXCLUDE PATTERN "demo.sh" EXCLUDE ${LP_LEFT_OUT})
install(FILES jobs/demo/train/templates.json DESTINATION ${LP_SHARE}/jobs/demo/train)
install(DIRECTORY analysis DESTINATION ${LP_SHARE} PATTERN "tests" EXCLUDE ${LP_LEFT_OUT})
install(DIRECTORY slurm DESTINATION ${LP_SHARE} PATTERN "submit.sh" EXCLUDE)
install(PROGRAMS slurm/submit.sh DESTINATION ${LP_SHARE}/slurm)
install(DIRECTORY docs DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES README.md CHANGELOG.md CITATION.cff LICENSE CONTRIBUTING.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES bench/RESULTS.md bench/HISTORY.md DESTINATION ${CMAKE_INSTALL_DOCDIR}/bench)

set(CPACK_PACKAGE_NAME latentpatch)
set(CPACK_PACKAGE_VENDOR "The latentpatch authors")
set(CPACK_PACKAGE_CONTACT "The latentpatch authors <latentpatch@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "activation patching of continuous thoughts, as a batch program")
set(CPACK_PACKAGE_DESCRIPTION
  "latentpatch finds out which activations of a language model with continuous thoughts cause its answer. MPI ranks share\n the problems, a GPU or the CPU does the arithmetic, and HDF5 keeps activations and results.")
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_GENERATOR DEB)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS openmpi-bin)
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "slurm-client, python3-venv")
set(CPACK_STRIP_FILES ON)
include(CPack)
