// Streams. Work is done when it is submitted, or with STREAMS=lazy when something waits for it: then a missing wait
// shows.
#include "stream.h"

#include <map>

#include "../counters.h"

namespace emulator {
namespace {

std::mutex mutex;  // of the tables
std::map<void*, StreamPtr> streams;
std::map<int, StreamPtr> default_streams;

bool is_default(const void* handle) { return (uintptr_t)handle <= 2; }

void* create_stream(unsigned flags) {
    constexpr unsigned NON_BLOCKING = 1;
    auto stream = std::make_shared<Stream>(current_context().device, !(flags & NON_BLOCKING));
    std::lock_guard lock(mutex);
    streams[stream.get()] = stream;
    return stream.get();
}

class HostCall : public Operation {
public:
    HostCall(void (*function)(void*), void* argument) : function(function), argument(argument) {}
    void run(bool) const override { function(argument); }

private:
    void (*const function)(void*);
    void* const argument;
};

}  // namespace

StreamPtr stream_of(void* handle) {
    const int device = current_context().device;
    std::lock_guard lock(mutex);
    if (is_default(handle)) {
        StreamPtr& stream = default_streams[device];
        if (!stream) stream = std::make_shared<Stream>(device, true);
        return stream;
    }
    const auto found = streams.find(handle);
    if (found == streams.end()) throw Error(CUDA_ERROR_INVALID_HANDLE, "there is no such stream");
    return found->second;
}

std::vector<StreamPtr> all_streams() {
    std::lock_guard lock(mutex);
    std::vector<StreamPtr> result;
    for (const auto& entry : default_streams) result.push_back(entry.second);
    for (const auto& entry : streams) result.push_back(entry.second);
    return result;
}

void execute(const Operation& operation, bool in_graph) {
    if (device_error::code() != CUDA_SUCCESS) return;
    try {
        operation.run(in_graph);
    } catch (const Error& error) {
        device_error::set(error.code, error.what());
    }
}

void submit(void* handle, OperationPtr operation) {
    const StreamPtr stream = stream_of(handle);
    check_valid(*stream);
    if (stream->capture) {
        Graph& graph = stream->capture->graph;
        graph.nodes.push_back({std::move(operation), stream->tail});
        stream->tail = {graph.nodes.size() - 1};
        return;
    }
    if (!config().lazy_streams) {
        std::lock_guard lock(stream->order);
        return execute(*operation, false);
    }
    // The null stream and the blocking ones wait for each other.
    if (stream->is_blocking)
        for (const StreamPtr& other : all_streams())
            if (other != stream && other->is_blocking && (is_default(handle) || other == stream_of(nullptr)))
                flush(*other);
    std::lock_guard lock(stream->order);
    stream->queue.push_back(std::move(operation));
}

bool run_next(Stream& stream) {
    std::lock_guard lock(stream.order);
    if (stream.queue.empty()) return false;
    const OperationPtr next = std::move(stream.queue.front());
    stream.queue.pop_front();
    execute(*next, false);
    return true;
}

void flush(Stream& stream) {
    std::lock_guard lock(stream.order);
    while (run_next(stream)) {
    }
}

void flush_all() {
    for (const StreamPtr& stream : all_streams()) flush(*stream);
}

}  // namespace emulator

using namespace emulator;

CUDA_API CUresult cuStreamCreate(void** stream, unsigned flags) {
    return call(Needs::Context, [&] { *stream = create_stream(flags); });
}

CUDA_API CUresult cuStreamCreateWithPriority(void** stream, unsigned flags, int) {
    return call(Needs::Context, [&] { *stream = create_stream(flags); });
}

CUDA_API CUresult cuStreamDestroy_v2(void* handle) {
    return call(Needs::Context, [&] {
        flush(*stream_of(handle));
        std::lock_guard lock(mutex);
        streams.erase(handle);
    });
}

CUDA_API CUresult cuStreamSynchronize(void* handle) {
    return call_and_wait([&] {
        const StreamPtr stream = stream_of(handle);
        refuse_on_captured(*stream, "synchronisation");
        counters::count_synchronisation();
        flush(*stream);
    });
}

CUDA_API CUresult cuStreamQuery(void* handle) {
    bool is_ready = true;
    const CUresult status = call_and_wait([&] {
        const StreamPtr stream = stream_of(handle);
        refuse_on_captured(*stream, "query");
        is_ready = stream->queue.empty();
        // Whoever asks until it is ready would ask for ever: the device goes on meanwhile.
        run_next(*stream);
    });
    return status == CUDA_SUCCESS && !is_ready ? CUDA_ERROR_NOT_READY : status;
}

CUDA_API CUresult cuStreamAttachMemAsync(void* handle, CUdeviceptr, size_t, unsigned) {
    return call(Needs::Context, [&] { stream_of(handle); });
}

CUDA_API CUresult cuLaunchHostFunc(void* stream, void (*function)(void*), void* argument) {
    return call(Needs::Context, [&] { submit(stream, std::make_shared<HostCall>(function, argument)); });
}

CUDA_API CUresult cuCtxSynchronize() {
    return call_and_wait([&] {
        refuse_in_capture("cuCtxSynchronize");
        counters::count_synchronisation();
        flush_all();
    });
}
