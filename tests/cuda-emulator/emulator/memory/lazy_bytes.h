// An array of bytes whose pages are taken from the system as they are touched, and all zero at first.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emulator {

class LazyBytes {
public:
    LazyBytes() = default;
    explicit LazyBytes(size_t size);
    ~LazyBytes();
    LazyBytes(const LazyBytes&) = delete;
    LazyBytes& operator=(LazyBytes&& other);

    std::byte* data() const { return start; }
    size_t size() const { return length; }
    void grow(size_t size);  // what was in it is gone
    // Makes a part zero again, and gives its pages back.
    void clear(size_t offset, size_t size);

private:
    std::byte* start = nullptr;
    size_t length = 0;
};

}  // namespace emulator
