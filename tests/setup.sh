# Sourced by jobs/demo.sh and tests/run.sh from the top of the repository: what a machine needs before it can build, run
# and test. Everything that is there already is left alone.

# "how to see that it is there = Debian package". A word with a slash is a header or module that pkg-config or
# dpkg-query knows; the others are programs.
lp_build_needs=(
  git=git cmake=cmake ninja=ninja-build gcc=gcc pkg-config=pkg-config mpirun=openmpi-bin h5dump=hdf5-tools
  dev/ompi-c=libopenmpi-dev dev/hdf5-openmpi=libhdf5-openmpi-dev dev/libcjson=libcjson-dev dev/libpcre2-8=libpcre2-dev
  dev/libcrypto=libssl-dev dev/libxxhash=libxxhash-dev dev/cmocka=libcmocka-dev
)
lp_python_needs=(python3=python3 dev/venv=python3-venv)
# The last two: cpack asks them what a Debian package depends on.
lp_test_needs=(ip=iproute2 file=file dpkg-shlibdeps=dpkg-dev)
# What some tests need and not every distribution has: Debian 13 and Ubuntu 24.04 have no clang-format-14, and Ubuntu has
# Chromium only as a snap. Where one is missing, its tests are skipped and say so.
lp_some_tests_need=(
  clang=clang dev/clang-rt=libclang-rt-dev dev/libomp=libomp-dev clang-format-14=clang-format-14 shellcheck=shellcheck
  zsh=zsh fish=fish chromium=chromium
)

# nproc believes OMP_NUM_THREADS.
lp_cores() { env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc; }

lp_say() { printf '%s\n' "$*" >&2; }

lp_has() {
  local need=${1%%=*} package=${1#*=}
  if [[ $need != dev/* ]]; then
    command -v "$need" >/dev/null 2>&1
  elif command -v dpkg-query >/dev/null 2>&1; then
    [[ $(dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null) == ii* ]] || pkg-config --exists "${need#dev/}" 2>/dev/null
  else
    pkg-config --exists "${need#dev/}" 2>/dev/null
  fi
}

# lp_install NEED=PACKAGE...: installs what is missing, or says how and returns 1. Where there is no apt-get (a cluster with
# modules), CMake will name what it misses.
lp_install() {
  local missing=() need sudo=()
  for need in "$@"; do lp_has "$need" || missing+=("${need#*=}"); done
  if ((${#missing[@]} == 0)) || ! command -v apt-get >/dev/null 2>&1; then return 0; fi
  local line="apt-get install -y --no-install-recommends ${missing[*]}"
  if ((EUID != 0)); then
    if ! sudo -n true 2>/dev/null; then
      lp_say "packages are missing, and may not be installed from here. Run this, then start again:"
      lp_say "    sudo $line"
      return 1
    fi
    sudo=(sudo -n)
  fi
  lp_say "installing: ${missing[*]}"
  local log
  log=$(mktemp)
  if ! { "${sudo[@]}" apt-get update && "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive $line; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    lp_say "the packages could not be installed. Run this, then start again:"
    lp_say "    $line"
    return 1
  fi
  rm -f "$log"
}

# lp_install_known NEED=PACKAGE...: the same, for those that this distribution has. What cannot be had is said.
lp_install_known() {
  local need known=()
  for need in "$@"; do
    if lp_has "$need" || apt-cache policy "${need#*=}" 2>/dev/null | grep -q 'Candidate: [^(]'; then
      known+=("$need")
    else
      lp_say "not in this distribution: ${need#*=} (the tests that need it are skipped)"
    fi
  done
  lp_install "${known[@]}" || lp_say "the tests that need these packages are skipped"
}

# lp_mpi_environment RANKS: what Open MPI needs as root, in containers, and with more ranks than cores. What the caller
# has set stays.
lp_mpi_environment() {
  if ((EUID == 0)); then
    export OMPI_ALLOW_RUN_AS_ROOT=${OMPI_ALLOW_RUN_AS_ROOT:-1}
    export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=${OMPI_ALLOW_RUN_AS_ROOT_CONFIRM:-1}
  fi
  if (($(lp_cores) < $1)); then
    export OMPI_MCA_rmaps_base_oversubscribe=${OMPI_MCA_rmaps_base_oversubscribe:-1}
    export OMPI_MCA_hwloc_base_binding_policy=${OMPI_MCA_hwloc_base_binding_policy:-none}
    # The same in Open MPI 5.
    export PRTE_MCA_rmaps_default_mapping_policy=${PRTE_MCA_rmaps_default_mapping_policy:-:oversubscribe}
    export PRTE_MCA_hwloc_default_binding_policy=${PRTE_MCA_hwloc_default_binding_policy:-none}
  fi
  # In a bare root without /sys, hwloc 2.10 says so five times on stderr.
  if [[ ! -d /sys/devices/system/cpu ]]; then export HWLOC_HIDE_ERRORS=${HWLOC_HIDE_ERRORS:-2}; fi
  export OMPI_MCA_mpi_yield_when_idle=${OMPI_MCA_mpi_yield_when_idle:-1}
  export OMPI_MCA_btl_vader_single_copy_mechanism=${OMPI_MCA_btl_vader_single_copy_mechanism:-none}
}

# lp_build PRESET [CMAKE_ARGUMENT...]: configures and builds; quiet unless it fails.
lp_build() {
  local preset=$1 log
  shift
  log=$(mktemp)
  lp_say "building (preset $preset)"
  if ! { cmake --preset "$preset" "$@" && cmake --build --preset "$preset"; } >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    lp_say "the build failed (preset $preset)"
    return 1
  fi
  rm -f "$log"
}

# lp_python FILE PIP_ARGUMENT...: pip-installs into .venv (made from a python3 >= 3.11) unless that was done already
# for this content of FILE. Returns 1, with one line that says why, where it cannot be done.
lp_python() {
  local file=$1 python log stamp
  shift
  stamp=.venv/.done-$(printf '%s ' "$@" "$(cat "$file")" | sha256sum | cut -c1-16)
  [[ -e $stamp ]] && return 0
  log=$(mktemp)
  if [[ ! -x .venv/bin/python ]]; then
    for python in python3 /usr/bin/python3 python3.13 python3.12 python3.11 ''; do
      [[ -z $python ]] && break
      "$python" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
    done
    if [[ -z $python ]] || ! "$python" -m venv .venv >"$log" 2>&1; then
      rm -rf .venv "$log"
      lp_say "no Python environment: no python3 >= 3.11 with the module venv was found"
      return 1
    fi
  fi
  lp_say "installing Python packages ($file)"
  if ! timeout 300 .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@" >"$log" 2>&1; then
    lp_say "no Python packages of $file: $(grep -i error "$log" | head -n 1)"
    rm -f "$log"
    return 1
  fi
  rm -f "$log"
  touch "$stamp"
}
