#include "poison.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "../size.h"

namespace emulator::memory {
namespace {

constexpr int POISON = 0xff;
constexpr size_t PAGE = 4096;
// What is copied: large enough that 80 GB are 20,000 mappings, of which a process may have 65,530.
constexpr size_t CHUNK = size_t(4) << 20;
// Below it, writing the bytes is faster than mapping them.
constexpr size_t LARGE = size_t(256) << 10;

// A file in memory, full of poison; -1 where there cannot be one.
int poisoned_file() {
    static const int file = [] {
        const int created = memfd_create("cuda-emulator-poison", MFD_CLOEXEC);
        const std::vector<char> bytes(CHUNK, (char)POISON);
        if (created >= 0 && write(created, bytes.data(), CHUNK) == (ssize_t)CHUNK) return created;
        return -1;
    }();
    return file;
}

bool map_poison(uintptr_t address, size_t bytes) {
    for (size_t done = 0; done < bytes; done += CHUNK) {
        const size_t some = std::min(CHUNK, bytes - done);
        const int flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE;
        if (mmap((void*)(address + done), some, PROT_READ | PROT_WRITE, flags, poisoned_file(), 0) == MAP_FAILED)
            return false;
    }
    return true;
}

}  // namespace

void poison(uintptr_t address, size_t bytes) {
    const uintptr_t end = address + bytes, first_page = round_up(address, PAGE), last_page = end / PAGE * PAGE;
    if (bytes >= LARGE && poisoned_file() >= 0 && map_poison(first_page, last_page - first_page)) {
        memset((void*)address, POISON, first_page - address);
        memset((void*)last_page, POISON, end - last_page);
    } else {
        memset((void*)address, POISON, bytes);
    }
}

}  // namespace emulator::memory
