// A libnccl.so for processes of one machine, on the emulated driver: what a run over ranks asks of NCCL, and nothing more.
//
// It is made of the driver's public functions: a sum is a copy to the host, an exchange with rank 0 over loopback, and a copy
// back, all in the order of the stream. Sums are in the order of the ranks. What NCCL would answer with an error or would
// never end with, is an error here: sums outside a group, of different sizes or kinds at different ranks, on no stream.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#define NCCL_API extern "C" __attribute__((visibility("default")))

extern "C" {
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream);
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream);
int cuLaunchHostFunc(void* stream, void (*function)(void*), void* argument);
int cuCtxGetCurrent(void** context);
int cuMemHostAlloc(void** to, size_t bytes, unsigned flags);
int cuMemFreeHost(void* memory);
}

namespace {

enum Result { SUCCESS = 0, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE_ERROR = 6, IN_PROGRESS = 7 };
enum Type { FLOAT32 = 7, FLOAT64 = 8 };

struct UniqueId {
    char bytes[128];
};

// The public one's beginning.
struct Config {
    size_t size;
    unsigned magic, version;
    int blocking;
};

thread_local std::string last_error;

int fail(Result result, const std::string& why) {
    last_error = why;
    return result;
}

bool send_all(int socket, const void* from, size_t bytes) {
    for (auto at = (const char*)from; bytes > 0;) {
        const ssize_t n = send(socket, at, bytes, MSG_NOSIGNAL);
        if (n <= 0) return false;
        at += n, bytes -= (size_t)n;
    }
    return true;
}

bool receive_all(int socket, void* to, size_t bytes) {
    for (auto at = (char*)to; bytes > 0;) {
        const ssize_t n = recv(socket, at, bytes, 0);
        if (n <= 0) return false;
        at += n, bytes -= (size_t)n;
    }
    return true;
}

// What a rank says before its values: equal at all, or they sum up different things.
struct Header {
    uint64_t count;
    int32_t type, place;
    bool operator==(const Header&) const = default;
};

struct Communicator {
    int rank, n_ranks;
    std::vector<int> sockets;  // of all others at rank 0, by rank; of rank 0 at the others
    std::atomic<int> state{IN_PROGRESS};
    std::thread joining;
    int place = 0;  // sums so far
    // Values on the host, one behind the other in each group. Pinned: what is pageable would be read when the copy is asked for.
    std::vector<char*> pinned;
    std::vector<size_t> pinned_bytes;

    char* values(size_t index, size_t bytes) {
        if (index >= pinned.size()) pinned.resize(index + 1), pinned_bytes.resize(index + 1);
        if (pinned_bytes[index] < bytes) {
            cuMemFreeHost(pinned[index]);
            if (cuMemHostAlloc((void**)&pinned[index], bytes, 0) != 0) return nullptr;
            pinned_bytes[index] = bytes;
        }
        return pinned[index];
    }

    ~Communicator() {
        if (joining.joinable()) joining.join();
        for (char* memory : pinned) cuMemFreeHost(memory);
        for (int socket : sockets) close(socket);
    }

    void break_off(Result result) {
        state = result;
        for (int socket : sockets) shutdown(socket, SHUT_RDWR);
    }
};

// One sum under way.
struct Sum {
    Communicator* communicator;
    Header header;
    char* values;
    size_t bytes;

    template <class T>
    void add(const std::vector<char>& theirs) {
        auto own = (T*)values;
        auto other = (const T*)theirs.data();
        for (size_t i = 0; i < header.count; i++) own[i] += other[i];
    }

    void exchange() {
        const int rank = communicator->rank;
        const auto& sockets = communicator->sockets;
        if (communicator->state != SUCCESS) return;
        if (rank > 0) {
            Header theirs;
            const bool done = send_all(sockets[0], &header, sizeof header) &&
                              send_all(sockets[0], values, bytes) &&
                              receive_all(sockets[0], &theirs, sizeof theirs) &&
                              receive_all(sockets[0], values, bytes);
            return done ? void() : communicator->break_off(REMOTE_ERROR);
        }
        std::vector<char> theirs(bytes);
        for (int socket : sockets) {
            Header other;
            if (!receive_all(socket, &other, sizeof other)) return communicator->break_off(REMOTE_ERROR);
            if (!(other == header)) return communicator->break_off(INVALID_USAGE);
            if (!receive_all(socket, theirs.data(), theirs.size())) return communicator->break_off(REMOTE_ERROR);
            header.type == FLOAT64 ? add<double>(theirs) : add<float>(theirs);
        }
        for (int socket : sockets)
            if (!send_all(socket, &header, sizeof header) || !send_all(socket, values, bytes))
                return communicator->break_off(REMOTE_ERROR);
    }
};

// A sum that was asked for, until its group ends.
struct Asked {
    std::unique_ptr<Sum> sum;
    uint64_t from, to;
    void* stream;
};

thread_local bool in_group = false;
thread_local std::vector<Asked> group;

int listening = -1;  // at rank 0, from the id to the join

sockaddr_in loopback(uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

void join(Communicator& communicator, uint16_t port) {
    const auto fail = [&] { communicator.state = SYSTEM_ERROR; };
    if (communicator.rank > 0) {
        const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        const sockaddr_in address = loopback(port);
        const int32_t rank = communicator.rank;
        communicator.sockets.push_back(socket);
        if (connect(socket, (const sockaddr*)&address, sizeof address) != 0) return fail();
        if (!send_all(socket, &rank, sizeof rank)) return fail();
    } else {
        communicator.sockets.assign((size_t)communicator.n_ranks - 1, -1);
        for (int n = 1; n < communicator.n_ranks; n++) {
            const int socket = accept4(listening, nullptr, nullptr, SOCK_CLOEXEC);
            int32_t rank;
            if (socket < 0 || !receive_all(socket, &rank, sizeof rank)) return fail();
            if (rank < 1 || rank >= communicator.n_ranks) return fail();
            communicator.sockets[(size_t)rank - 1] = socket;
        }
        close(listening);
    }
    const int yes = 1;
    for (int socket : communicator.sockets) setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    communicator.state = SUCCESS;
}

}  // namespace

NCCL_API int ncclGetUniqueId(UniqueId* id) {
    listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = loopback(0);
    socklen_t length = sizeof address;
    if (bind(listening, (const sockaddr*)&address, length) != 0 || listen(listening, 64) != 0 ||
        getsockname(listening, (sockaddr*)&address, &length) != 0)
        return fail(SYSTEM_ERROR, "no port on loopback");
    memset(id, 0, sizeof *id);
    memcpy(id->bytes, &address.sin_port, sizeof address.sin_port);
    return SUCCESS;
}

NCCL_API int ncclCommInitRankConfig(Communicator** to, int n_ranks, UniqueId id, int rank, Config* config) {
    void* context = nullptr;
    if (cuCtxGetCurrent(&context) != 0 || !context) return fail(INVALID_USAGE, "no context is current");
    if (config->magic != 0xcafebeef || config->version < 21800 || config->blocking != 0)
        return fail(INVALID_ARGUMENT, "a configuration that this library does not know");
    if (rank < 0 || rank >= n_ranks) return fail(INVALID_ARGUMENT, "no such rank");
    uint16_t port;
    memcpy(&port, id.bytes, sizeof port);
    auto communicator = new Communicator{rank, n_ranks, {}, {}, {}, 0, {}, {}};
    communicator->state = IN_PROGRESS;
    communicator->joining = std::thread([communicator, port] { join(*communicator, ntohs(port)); });
    *to = communicator;
    return IN_PROGRESS;
}

NCCL_API int ncclCommGetAsyncError(Communicator* communicator, int* state) {
    *state = communicator->state;
    return SUCCESS;
}

NCCL_API int ncclGroupStart() {
    in_group = true;
    return SUCCESS;
}

NCCL_API int ncclAllReduce(const void* from, void* to, size_t count, int type, int operation, Communicator* communicator,
                           void* stream) {
    if (!in_group) return fail(INVALID_USAGE, "a sum outside a group");
    if (communicator->state != SUCCESS) return fail(INVALID_USAGE, "the ranks are not joined");
    if (operation != 0) return fail(INVALID_ARGUMENT, "only sums are known");
    if (type != FLOAT32 && type != FLOAT64) return fail(INVALID_ARGUMENT, "only float and double are known");
    if ((uintptr_t)stream <= 2) return fail(INVALID_ARGUMENT, "a sum on the default stream");
    const size_t bytes = count * (type == FLOAT64 ? 8 : 4);
    char* values = communicator->values(group.size(), bytes);
    if (!values) return fail(SYSTEM_ERROR, "no pinned memory");
    auto sum = std::make_unique<Sum>(Sum{communicator, {count, type, communicator->place++}, values, bytes});
    group.push_back({std::move(sum), (uint64_t)from, (uint64_t)to, stream});
    return SUCCESS;
}

NCCL_API int ncclGroupEnd() {
    in_group = false;
    for (Asked& asked : group) {
        Sum* sum = asked.sum.release();  // forgotten by the last of the stream's operations on it
        const size_t bytes = sum->bytes;
        const auto exchange = [](void* sum) { ((Sum*)sum)->exchange(); };
        const auto forget = [](void* sum) { delete (Sum*)sum; };
        if (cuMemcpyDtoHAsync_v2(sum->values, asked.from, bytes, asked.stream) != 0 ||
            cuLaunchHostFunc(asked.stream, exchange, sum) != 0 ||
            cuMemcpyHtoDAsync_v2(asked.to, sum->values, bytes, asked.stream) != 0 ||
            cuLaunchHostFunc(asked.stream, forget, sum) != 0)
            return fail(INVALID_ARGUMENT, "the driver refused a copy");
    }
    group.clear();
    return SUCCESS;
}

NCCL_API int ncclCommAbort(Communicator* communicator) {
    delete communicator;
    return SUCCESS;
}

NCCL_API const char* ncclGetErrorString(int result) {
    switch (result) {
        case SUCCESS: return "no error";
        case SYSTEM_ERROR: return "unhandled system error";
        case INVALID_ARGUMENT: return "invalid argument";
        case INVALID_USAGE: return "invalid usage";
        case REMOTE_ERROR: return "remote process exited or there was a network error";
        default: return "unknown result code";
    }
}

NCCL_API const char* ncclGetLastError(Communicator*) { return last_error.c_str(); }
