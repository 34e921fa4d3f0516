#include "lazy_bytes.h"

#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "../error.h"
#include "../size.h"

namespace emulator {

LazyBytes::LazyBytes(size_t size) : length(size) {
    void* pages = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED)
        throw Error(CUDA_ERROR_OUT_OF_MEMORY, format("the host has no %zu bytes for the emulator", size));
    start = (std::byte*)pages;
}

LazyBytes::~LazyBytes() {
    if (start) munmap(start, length);
}

LazyBytes& LazyBytes::operator=(LazyBytes&& other) {
    std::swap(start, other.start);
    std::swap(length, other.length);
    return *this;
}

void LazyBytes::clear(size_t offset, size_t size) {
    constexpr size_t PAGE = 4096;
    const size_t end = offset + size, first_page = std::min(round_up(offset, PAGE), end);
    const size_t last_page = std::max(end / PAGE * PAGE, first_page);
    memset(start + offset, 0, first_page - offset);
    if (last_page > first_page) madvise(start + first_page, last_page - first_page, MADV_DONTNEED);
    memset(start + last_page, 0, end - last_page);
}

void LazyBytes::grow(size_t size) {
    if (size > length) *this = LazyBytes(size);
}

}  // namespace emulator
