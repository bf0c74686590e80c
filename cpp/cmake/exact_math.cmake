# Refuses compiler and linker options under which arithmetic is not that of IEEE 754. Clang defines
# no macros for most of them; and at a link, they turn flushing of subnormal numbers on for the
# whole process.

# Stops with an error if `options`, a string or a list, has such an option; `where` is its origin.
function(fused_rmsprop_refuse_inexact_math where options)
    string(
        REGEX
            MATCH
            "(^|[ ;:,>])(-Ofast|-ffast-math|-funsafe-math-optimizations|-fassociative-math|-freciprocal-math|-ffinite-math-only|-fno-signed-zeros|-fno-honor-nans|-fno-honor-infinities|-fapprox-func|-ffp-model=(fast|aggressive)|-fsingle-precision-constant|-mdaz-ftz|[-/]fp:fast)($|[ ;,>])"
            found "${options}")
    if(found)
        message(FATAL_ERROR "fused_rmsprop promises exact numbers, which ${CMAKE_MATCH_2} changes: "
                            "remove it from ${where}. A target of your own can still have it: "
                            "target_compile_options(my_program PRIVATE ${CMAKE_MATCH_2})")
    endif()
endfunction()

# Does so for all that would reach this directory's targets.
function(fused_rmsprop_refuse_inexact_math_here)
    set(configs ${CMAKE_CONFIGURATION_TYPES} ${CMAKE_BUILD_TYPE})
    foreach(kind CXX SHARED_LINKER MODULE_LINKER)
        foreach(config IN LISTS configs)
            string(TOUPPER "${config}" config)
            fused_rmsprop_refuse_inexact_math(CMAKE_${kind}_FLAGS_${config}
                                              "${CMAKE_${kind}_FLAGS_${config}}")
        endforeach()
        fused_rmsprop_refuse_inexact_math(CMAKE_${kind}_FLAGS "${CMAKE_${kind}_FLAGS}")
    endforeach()
    foreach(property COMPILE_OPTIONS LINK_OPTIONS)
        get_directory_property(options ${property})
        fused_rmsprop_refuse_inexact_math("the ${property} of a directory" "${options}")
    endforeach()
endfunction()
