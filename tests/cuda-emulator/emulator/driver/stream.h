// In which order work on a device happens: streams, and the captures that they may be in.
#pragma once
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "api.h"

namespace emulator {

// Work for a device: a launch, a copy, a memset, a matrix product, a call of the host.
class Operation {
public:
    virtual ~Operation() = default;
    // Does it and counts it. Throws Error.
    virtual void run(bool in_graph) const = 0;
};
using OperationPtr = std::shared_ptr<const Operation>;

struct Graph {
    struct Node {
        OperationPtr operation;
        std::vector<size_t> after;  // nodes that come before it
    };
    std::vector<Node> nodes;
};

struct Stream;

enum class CaptureMode { Global = 0, ThreadLocal = 1, Relaxed = 2 };

// What streams record instead of doing it. An error makes it invalid until it is ended.
struct Capture {
    Stream* origin;
    CaptureMode mode;
    std::thread::id thread;
    bool is_valid = true;
    Graph graph;
};
using CapturePtr = std::shared_ptr<Capture>;

struct Stream {
    int device;
    bool is_blocking;                // waits for the null stream, and lets it wait
    std::recursive_mutex order;      // held while its work runs
    std::deque<OperationPtr> queue;  // only if streams are lazy
    CapturePtr capture;
    std::vector<size_t> tail;  // the nodes of the capture behind which its next one comes

    Stream(int device, bool is_blocking) : device(device), is_blocking(is_blocking) {}
};
using StreamPtr = std::shared_ptr<Stream>;

// The stream of a handle; null, 1 and 2 are the current device's default stream.
StreamPtr stream_of(void* handle);
std::vector<StreamPtr> all_streams();

// Does, queues or records it.
void submit(void* stream, OperationPtr operation);
// Runs an operation now, if the device has had no error; an error of it becomes the device's.
void execute(const Operation& operation, bool in_graph);
// Runs the first operation of what is queued; false if there is none.
bool run_next(Stream& stream);
void flush(Stream& stream);
void flush_all();

// ---- captures

// Makes a graph known by its handle.
void register_graph(Graph* graph);
// Throws where the stream's capture is lost.
void check_valid(const Stream& stream);
// The capture is lost, and the call that did it is refused.
[[noreturn]] void invalidate(Capture& capture, int code, const std::string& why);
// Calls that would break a capture, which no stream records.
void refuse_in_capture(const char* what);
void refuse_on_captured(Stream& stream, const char* what);

// Like `call`, for functions that wait: an error of the work that they waited for is their result.
template <class Body>
CUresult call_and_wait(Body body) {
    const CUresult status = call(Needs::Context, body);
    return status == CUDA_SUCCESS ? device_error::code() : status;
}

}  // namespace emulator
