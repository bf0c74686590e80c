# Builds with clang: the one that the environment variable CLANGXX names, else the newest found.
find_program(
    FUSED_RMSPROP_CLANGXX
    NAMES $ENV{CLANGXX} clang++ clang++-22 clang++-21 clang++-20 clang++-19 clang++-18 clang++-17
          clang++-16 clang++-15 clang++-14 REQUIRED)
set(CMAKE_CXX_COMPILER ${FUSED_RMSPROP_CLANGXX})
