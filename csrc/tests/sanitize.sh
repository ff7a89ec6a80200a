#!/bin/sh
# Builds biasgen._cpu with ASan and UBSan beside a copy of the package and runs the kernels' tests on it. Usage: sanitize.sh PYTHON
set -eu
python=$1
case $python in /*) ;; *) python=$PWD/$python ;; esac
root=$PWD
out=$root/build/sanitize
mkdir -p "$out"
"$python" -m pip install -q cmake ninja pybind11
bin=$(dirname "$python")
"$bin/cmake" -S "$root" -B "$out/cmake" -G Ninja -DCMAKE_MAKE_PROGRAM="$bin/ninja" -DCMAKE_BUILD_TYPE=Debug \
  -DCMAKE_CXX_FLAGS="-g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" -DPython_EXECUTABLE="$python" >"$out/cmake.log"
"$bin/cmake" --build "$out/cmake"
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
  "$root/tests/test_denoise_paths.py"
