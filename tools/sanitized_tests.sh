#!/usr/bin/env bash
# Runs Python tests on a module with sanitizers: builds a preset and passes its arguments to pytest.
# PYTHON names the interpreter; it needs pybind11 and the package's test requirements. PRESET is
# python-asan-ubsan, the default, or python-tsan: that one needs clang++ (CLANGXX) and a Python that
# TSAN=1 tools/free_threaded_python.sh has built with the same.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
preset=${PRESET:-python-asan-ubsan}
build=build/$preset
cmake --preset "$preset" -DPython_EXECUTABLE="$(realpath -s "$python")" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)"
cmake --build --preset "$preset"

rm -rf "$build/site" # the package with its module and library, in front of an installed one
cp -r python "$build/site"
rm -rf "$build"/site/fused_rmsprop/{_core*.so,lib,include}
cmake --install "$build" --prefix "$build/site" >/dev/null
export PYTHONPATH=$build/site

not_here=(
    --ignore tests/torch --ignore tests/monitor/test_torch.py # torch is not built for it
    --ignore tests/exchange --ignore tests/test_presets.py --ignore tests/test_scipy.py # Python alone, beside
    --ignore tests/test_autograd.py --ignore tests/test_examples.py # other packages: nothing of the module
    --ignore tests/test_command_line.py --ignore tests/test_readme.py # that other tests do not use
    --ignore tests/gallery --ignore tests/test_site.py
    --ignore tests/monitor/test_html.py --ignore tests/monitor/test_ill_trainings.py
    --ignore tests/monitor/test_live.py --ignore tests/monitor/test_plotting.py
    --ignore tests/monitor/test_rules.py --ignore tests/monitor/test_streams.py # TensorBoard's gRPC crashes
    --ignore tests/monitor/test_tables.py --ignore tests/monitor/test_watch.py
    # These limit the address space, of which sanitizers reserve terabytes, or the resident memory,
    # which they do not give back.
    -k 'not threads_that_cannot and not allocates_nothing'
)
case $preset in
python-asan-ubsan)
    # ASan must come first in the process, and must find the C++ library to follow its exceptions.
    # CPython does not free all its memory at its end, so ASan does not look for leaks.
    export LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)"
    export ASAN_OPTIONS=detect_leaks=0:abort_on_error=0:handle_abort=1:allocator_may_return_null=1
    export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
    export PYTHONMALLOC=malloc # each object in memory of its own, which ASan watches
    ;;
python-tsan)
    # As in the C++ tests: Archer tells ThreadSanitizer what LLVM's OpenMP synchronises, and NumPy
    # and OpenMP are not instrumented.
    clang=$(realpath "$(sed -n 's/^FUSED_RMSPROP_CLANGXX:.*=//p' "$build/CMakeCache.txt")")
    OMP_TOOL_LIBRARIES=$(realpath "$(dirname "$clang")/../lib/libarcher.so")
    export OMP_TOOL_LIBRARIES OMP_WAIT_POLICY=passive
    prefix=$("$python" -c 'import sys; print(sys.base_prefix)')
    export TSAN_OPTIONS=ignore_noninstrumented_modules=1:suppressions=$prefix/tsan_suppressions.txt
    ;;
esac
# pytest must not capture what sanitizers report on the standard error.
exec "$python" -m pytest --capture=sys "${not_here[@]}" "$@"
