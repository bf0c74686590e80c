// Vectors of an instruction set's full width, `vector_bytes`, with the arithmetic operators that
// the compiler gives its vector types. The sets' own files (sse2.inl, ...) have what these lack:
// the square root, and parts of vectors. All follow the rules at the top of update.inl.

namespace {

template <typename T>
struct VectorOf {
    typedef T type __attribute__((vector_size(vector_bytes)));
};
template <typename T>
using Vector = typename VectorOf<T>::type;
template <typename T>
constexpr std::size_t lanes = vector_bytes / sizeof(T);

template <typename T>
inline Vector<T> broadcast(T x) {
    return x - Vector<T>{}; // -0, too, stays
}

/// Loads and stores all lanes, at any address.
struct Whole {
    template <typename T>
    Vector<T> load(const T *from) const {
        Vector<T> x;
        __builtin_memcpy(&x, from, sizeof x);
        return x;
    }
    template <typename T>
    void store(T *to, Vector<T> x) const {
        __builtin_memcpy(to, &x, sizeof x);
    }
};

/// Loads and stores the first lanes and touches no other memory; the other lanes are zero. For sets
/// without instructions for that.
class PartByLanes {
public:
    explicit PartByLanes(std::size_t count) : count_(count) {}

    template <typename T>
    Vector<T> load(const T *from) const {
        Vector<T> x{};
        for (std::size_t k = 0; k < lanes<T> && k < count_; ++k)
            x[k] = from[k];
        return x;
    }
    template <typename T>
    void store(T *to, Vector<T> x) const {
        for (std::size_t k = 0; k < lanes<T> && k < count_; ++k)
            to[k] = x[k];
    }

private:
    std::size_t count_;
};

/// A quotient without the divider: specialized where there is one (quotient.inl).
template <typename T>
struct RefinedQuotient {
    static constexpr bool exists = false;
};

} // namespace
