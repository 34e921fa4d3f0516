// Captures: streams that record work as a graph, and what must not be called meanwhile (CUDA Programming Guide,
// "Creating a Graph Using Stream Capture").
#include "stream.h"

namespace emulator {
namespace {

std::mutex mutex;  // of the list
std::vector<std::weak_ptr<Capture>> captures;

// The node before all that the origin has waited for, directly or not.
std::vector<bool> joined_nodes(const Stream& origin, const Graph& graph) {
    std::vector<bool> joined(graph.nodes.size());
    for (size_t node : origin.tail) joined[node] = true;
    for (size_t node = joined.size(); node-- > 0;)
        if (joined[node])
            for (size_t before : graph.nodes[node].after) joined[before] = true;
    return joined;
}

// All streams leave the capture. False if one of them has work that the origin does not wait for.
bool leave(const CapturePtr& capture, const Stream& origin) {
    const std::vector<bool> joined = joined_nodes(origin, capture->graph);
    bool all_joined = true;
    for (const StreamPtr& stream : all_streams()) {
        if (stream->capture != capture) continue;
        for (size_t node : stream->tail) all_joined &= joined[node];
        stream->capture = nullptr;
        stream->tail.clear();
    }
    return all_joined;
}

}  // namespace

void invalidate(Capture& capture, int code, const std::string& why) {
    capture.is_valid = false;
    throw Error(code, why);
}

void check_valid(const Stream& stream) {
    if (stream.capture && !stream.capture->is_valid)
        throw Error(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "the stream's capture was broken by an earlier call");
}

void refuse_on_captured(Stream& stream, const char* what) {
    check_valid(stream);
    if (stream.capture)
        invalidate(*stream.capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                   format("%s while the stream is captured", what));
}

void refuse_in_capture(const char* what) {
    CapturePtr broken;
    {
        std::lock_guard lock(mutex);
        std::erase_if(captures, [](const auto& capture) { return capture.expired(); });
        for (const auto& weak : captures) {
            const CapturePtr capture = weak.lock();
            if (!capture || capture->mode == CaptureMode::Relaxed) continue;
            if (capture->mode == CaptureMode::Global || capture->thread == std::this_thread::get_id()) broken = capture;
        }
    }
    if (broken) invalidate(*broken, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, format("%s during a capture", what));
}

}  // namespace emulator

using namespace emulator;

CUDA_API CUresult cuStreamBeginCapture_v2(void* handle, int mode) {
    return call(Needs::Context, [&] {
        if (mode < 0 || mode > 2) throw Error(CUDA_ERROR_INVALID_VALUE, "unknown capture mode");
        if ((uintptr_t)handle <= 1)
            throw Error(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "the null stream cannot be captured: create a stream");
        const StreamPtr stream = stream_of(handle);
        if (stream->capture) throw Error(CUDA_ERROR_ILLEGAL_STATE, "the stream is captured already");
        auto capture =
            std::make_shared<Capture>(Capture{stream.get(), (CaptureMode)mode, std::this_thread::get_id(), true, {}});
        stream->capture = capture;
        stream->tail.clear();
        std::lock_guard lock(mutex);
        captures.push_back(capture);
    });
}

CUDA_API CUresult cuStreamIsCapturing(void* handle, int* status) {
    return call(Needs::Context, [&] {
        const StreamPtr stream = stream_of(handle);
        *status = !stream->capture ? 0 : stream->capture->is_valid ? 1 : 2;
    });
}

CUDA_API CUresult cuStreamEndCapture(void* handle, Graph** graph) {
    return call(Needs::Context, [&] {
        *graph = nullptr;
        const StreamPtr stream = stream_of(handle);
        const CapturePtr capture = stream->capture;
        if (!capture) throw Error(CUDA_ERROR_ILLEGAL_STATE, "the stream is not captured");
        if (capture->origin != stream.get())
            invalidate(*capture, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "the capture was begun on another stream");
        if (capture->mode != CaptureMode::Relaxed && capture->thread != std::this_thread::get_id())
            throw Error(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "the capture was begun by another thread");
        const bool all_joined = leave(capture, *stream);
        if (!capture->is_valid)
            throw Error(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "the capture was broken by an earlier call");
        if (!all_joined)
            throw Error(CUDA_ERROR_STREAM_CAPTURE_UNJOINED,
                        "a stream that joined the capture has work that its origin does not wait for");
        *graph = new Graph(std::move(capture->graph));
        register_graph(*graph);
    });
}
