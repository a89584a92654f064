# A recipe for Spack 1.0 and later. Copy it to packages/latentpatch/package.py of a repository of
# your own (`spack repo create`). The address of the source that you use goes into
# packages.yaml:
#     packages: {latentpatch: {package_attributes: {git: ADDRESS}}}
from spack_repo.builtin.build_systems.cmake import CMakePackage
from spack_repo.builtin.build_systems.cuda import CudaPackage

from spack.package import *


class Latentpatch(CMakePackage, CudaPackage):
    """Activation patching of continuous thoughts, as a batch program: it finds out which
    activations of a language model cause its answer. MPI ranks share the problems, a GPU or the
    CPU does the arithmetic, HDF5 keeps the results."""

    license("MIT", checked_by="the latentpatch authors")

    version("main", branch="main")

    variant("tests", default=False, description="Build the tests")

    depends_on("c", type="build")
    depends_on("cxx", type="build", when="+cuda")
    depends_on("cmake@3.25:", type="build")
    depends_on("pkgconfig", type="build")
    depends_on("mpi")
    depends_on("hdf5@1.10.8:+mpi")
    depends_on("cjson")
    depends_on("pcre2")
    depends_on("xxhash@0.8:")
    depends_on("openssl")
    depends_on("cuda@12:", when="+cuda")
    depends_on("cmocka", when="+tests")

    def cmake_args(self):
        args = [
            self.define_from_variant("LP_TESTS", "tests"),
            self.define("LP_CUDA", "ON" if self.spec.satisfies("+cuda") else "OFF"),
            self.define("LP_WERROR", False),
        ]
        if self.spec.satisfies("+cuda") and not self.spec.satisfies("cuda_arch=none"):
            archs = [f"{arch}-real" for arch in self.spec.variants["cuda_arch"].value]
            args.append(self.define("CMAKE_CUDA_ARCHITECTURES", archs))
        return args

    def test_plan(self):
        """the installed program plans the installed demo job"""
        program = which(self.prefix.bin.latentpatch, required=True)
        job = join_path(self.prefix.share, "latentpatch", "jobs", "demo-gpt2.json")
        out = program("plan", job, output=str.split, error=str.split)
        check_outputs(["conditions"], out)
