#!/usr/bin/env bash
# pack.sh BUILD FOLDER: what a bare machine needs to run a build made here: the programs, the CUDA module, and every
# shared library that they name except the C library's own and NVIDIA's, with Open MPI's plugins.
# FOLDER.tar.xz is the same for the way. Over there: FOLDER/latentpatch and the others find what they need.
set -euo pipefail
if (($# != 2)); then
  printf 'usage: bash tests/cuda/pack.sh BUILD FOLDER\n' >&2
  exit 2
fi
build=$1 folder=$2
rm -rf "$folder"
mkdir -p "$folder/bin" "$folder/lib" "$folder/openmpi"
for program in latentpatch lp_conformance liblatentpatch_cuda.so bench_forward; do
  cp "$build/$program" "$folder/bin/"
  strip --strip-debug "$folder/bin/$program"
done

plugins=$(ompi_info --parsable --path pkglibdir 2>/dev/null | sed -n 's/^path:pkglibdir://p')
if [[ -d $plugins ]]; then cp -rL "$plugins"/*/mca_*.so "$folder/openmpi/" 2>/dev/null || cp -L "$plugins"/mca_*.so "$folder/openmpi/"; fi
# One process needs no fabrics and no OpenSHMEM; they would bring dozens of libraries.
rm -f "$folder"/openmpi/mca_{spml,scoll,sshmem,memheap,atomic}_* \
  "$folder"/openmpi/*{ofi,ucx,openib,psm,usnic,monitoring,portals,verbs}*

# The loader finds these on any machine with a driver and a toolkit of the same major version.
own='^(linux-vdso|ld-linux|libc|libm|libdl|librt|libpthread|libresolv|libutil|libstdc\+\+|libgcc_s|libcublas|libcublasLt|libcuda|libcudart)[.-]'
mapfile -t files < <(find "$folder" -type f \( -perm -u+x -o -name '*.so*' \))
for file in "${files[@]}"; do ldd "$file" 2>/dev/null; done | awk '$3 ~ /^\// {print $3}' | sort -u |
  while read -r library; do
    name=$(basename "$library")
    if [[ ! $name =~ $own ]]; then cp -L "$library" "$folder/lib/"; fi
  done

cat >"$folder/environment" <<'EOF'
packed=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export OMPI_MCA_mca_base_component_path=$packed/openmpi OMPI_MCA_ess_singleton_isolated=1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_btl=${OMPI_MCA_btl:-self} OMPI_MCA_mtl=^ofi OMPI_MCA_pml=ob1
EOF
# Our libraries are for our programs alone: torch, in the same shell, has others of the same names. Where there is no
# toolkit, pip's packages have NVIDIA's.
for program in latentpatch lp_conformance bench_forward; do
  cat >"$folder/$program" <<'EOF'
#!/usr/bin/env bash
# shellcheck source=/dev/null
source "$(dirname "${BASH_SOURCE[0]}")/environment"
pip=$(python3 -c 'import nvidia, os
print(":".join(os.path.join(p, d, "lib") for p in nvidia.__path__ for d in os.listdir(p)))' 2>/dev/null)
export LD_LIBRARY_PATH=$packed/lib:/usr/local/cuda/lib64${pip:+:$pip}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
exec "$packed/bin/$(basename "$0")" "$@"
EOF
  chmod +x "$folder/$program"
done
tar -C "$folder" -cJf "$folder.tar.xz" .
du -sh "$folder" "$folder.tar.xz"
