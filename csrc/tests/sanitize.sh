#!/bin/sh
# The native code under scrutiny: symbols of the objects; kernels_test under valgrind, then with ASan and UBSan; the Python tests of the
# kernels on a biasgen._cpu that is built with ASan and UBSan beside a copy of the package. Usage: sanitize.sh PYTHON
set -eu
python=$1
case $python in /*) ;; *) python=$PWD/$python ;; esac
root=$PWD
out=$root/build/sanitize
mkdir -p "$out"
"$python" -m pip install -q cmake ninja pybind11
bin=$(dirname "$python")
configure() {  # configure FOLDER CMAKE_OPTIONS
  to=$1
  shift
  "$bin/cmake" -S "$root" -B "$to" -G Ninja -DCMAKE_MAKE_PROGRAM="$bin/ninja" -DBIASGEN_TESTS=ON \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" -DPython_EXECUTABLE="$python" "$@" >"$to.log"
}

# As it is shipped: what the objects of each instruction set show to the linker, and a machine without AVX-512
configure "$out/plain" -DCMAKE_BUILD_TYPE=Release -DCMAKE_EXPORT_COMPILE_COMMANDS=ON
"$python" "$root/csrc/tests/isa_objects.py" "$out/plain/compile_commands.json"
"$bin/cmake" --build "$out/plain" --target kernels_test
if command -v valgrind >/dev/null; then
  best=baseline
  if grep -qw avx2 /proc/cpuinfo && grep -qw fma /proc/cpuinfo && grep -qw bmi2 /proc/cpuinfo; then best=avx2; fi
  valgrind -q --error-exitcode=1 "$out/plain/kernels_test" "$best"
else
  echo "*** valgrind is not installed: dispatch on a machine without AVX-512 is NOT checked ***"
fi

configure "$out/cmake" -DCMAKE_BUILD_TYPE=Debug \
  -DCMAKE_CXX_FLAGS="-g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
"$bin/cmake" --build "$out/cmake"
"$out/cmake/kernels_test"
rm -rf "$out/site"
mkdir -p "$out/site"
cp -r "$root/biasgen" "$out/site/biasgen"
cp "$out"/cmake/_cpu*.so "$out/site/biasgen/"
# Python itself leaks at exit, so leaks are not reported; -S keeps the editable install off the path
cd "$out"
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
OMP_NUM_THREADS=1 LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
  PYTHONPATH="$out/site:$site" "$python" -S -m pytest -q -p no:randomly --rootdir "$root" -c "$root/pyproject.toml" -o pythonpath= \
  -k "not torch" "$root/tests/test_conformance.py" "$root/tests/test_certified_search.py" \
  "$root/tests/test_denoise_paths.py" "$root/tests/test_denoise_tokens.py" "$root/tests/ops/test_philox.py"
