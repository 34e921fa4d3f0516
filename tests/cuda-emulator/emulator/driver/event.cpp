// Events: marks in a stream that others wait for, and between which time is measured.
#include <time.h>

#include <algorithm>
#include <map>

#include "../counters.h"
#include "stream.h"

namespace emulator {
namespace {

// An event counts its records, so that a wait means the last one before it.
struct Event {
    bool has_timing = true;
    std::mutex mutex;
    uint64_t recorded = 0, done = 0;
    StreamPtr stream;
    timespec time{};
    CapturePtr capture;        // where it was last recorded in one
    std::vector<size_t> tail;  // the nodes before it
};
using EventPtr = std::shared_ptr<Event>;

std::mutex mutex;  // of the table
std::map<void*, EventPtr> events;

EventPtr event_of(void* handle) {
    std::lock_guard lock(mutex);
    const auto found = events.find(handle);
    if (found == events.end()) throw Error(CUDA_ERROR_INVALID_HANDLE, "there is no such event");
    return found->second;
}

class RecordEvent : public Operation {
public:
    RecordEvent(EventPtr event, uint64_t number) : event(std::move(event)), number(number) {}
    void run(bool) const override {
        std::lock_guard lock(event->mutex);
        clock_gettime(CLOCK_MONOTONIC, &event->time);
        event->done = number;
    }

private:
    const EventPtr event;
    const uint64_t number;
};

void run_until(Stream& stream, const Event& event, uint64_t number) {
    while (event.done < number && run_next(stream)) {
    }
}

class WaitForEvent : public Operation {
public:
    WaitForEvent(EventPtr event, uint64_t number)
        : event(std::move(event)), stream(this->event->stream), number(number) {}
    void run(bool) const override { run_until(*stream, *event, number); }

private:
    const EventPtr event;
    const StreamPtr stream;
    const uint64_t number;
};

void require_outside_of_capture(const Event& event) {
    if (event.capture) throw Error(CUDA_ERROR_CAPTURED_EVENT, "the event was last recorded in a capture");
}

// The stream takes part in the event's capture from here on.
void join(Stream& stream, const Event& event) {
    if (!stream.capture) {
        stream.capture = event.capture;
        stream.tail.clear();
    } else if (stream.capture != event.capture) {
        invalidate(*stream.capture, CUDA_ERROR_STREAM_CAPTURE_MERGE, "the stream would wait for another capture");
    }
    for (size_t node : event.tail)
        if (std::find(stream.tail.begin(), stream.tail.end(), node) == stream.tail.end()) stream.tail.push_back(node);
}

}  // namespace
}  // namespace emulator

using namespace emulator;

CUDA_API CUresult cuEventCreate(void** handle, unsigned flags) {
    return call(Needs::Context, [&] {
        constexpr unsigned DISABLE_TIMING = 2;
        auto event = std::make_shared<Event>();
        event->has_timing = !(flags & DISABLE_TIMING);
        std::lock_guard lock(mutex);
        events[event.get()] = event;
        *handle = event.get();
    });
}

CUDA_API CUresult cuEventDestroy_v2(void* handle) {
    return call(Needs::Context, [&] {
        event_of(handle);
        std::lock_guard lock(mutex);
        events.erase(handle);
    });
}

CUDA_API CUresult cuEventRecord(void* handle, void* stream_handle) {
    return call(Needs::Context, [&] {
        const StreamPtr stream = stream_of(stream_handle);
        const EventPtr event = event_of(handle);
        check_valid(*stream);
        event->capture = stream->capture;
        event->tail = stream->tail;
        if (stream->capture) return;
        event->stream = stream;
        event->recorded++;
        submit(stream_handle, std::make_shared<RecordEvent>(event, event->recorded));
    });
}

CUDA_API CUresult cuStreamWaitEvent(void* stream_handle, void* handle, unsigned) {
    return call(Needs::Context, [&] {
        const StreamPtr stream = stream_of(stream_handle);
        const EventPtr event = event_of(handle);
        check_valid(*stream);
        if (event->capture) return join(*stream, *event);
        if (!event->recorded) return;
        if (stream->capture)
            invalidate(*stream->capture, CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
                       "the captured stream would wait for an event that was recorded outside of the capture");
        submit(stream_handle, std::make_shared<WaitForEvent>(event, event->recorded));
    });
}

CUDA_API CUresult cuEventQuery(void* handle) {
    bool is_ready = true;
    const CUresult status = call_and_wait([&] {
        const EventPtr event = event_of(handle);
        require_outside_of_capture(*event);
        refuse_in_capture("cuEventQuery");
        is_ready = event->done == event->recorded;
    });
    return status == CUDA_SUCCESS && !is_ready ? CUDA_ERROR_NOT_READY : status;
}

CUDA_API CUresult cuEventSynchronize(void* handle) {
    return call_and_wait([&] {
        const EventPtr event = event_of(handle);
        require_outside_of_capture(*event);
        refuse_in_capture("cuEventSynchronize");
        counters::count_synchronisation();
        if (event->stream) run_until(*event->stream, *event, event->recorded);
    });
}

CUDA_API CUresult cuEventElapsedTime_v2(float* milliseconds, void* start_handle, void* end_handle) {
    bool is_ready = true;
    const CUresult status = call_and_wait([&] {
        const EventPtr start = event_of(start_handle), end = event_of(end_handle);
        for (const EventPtr& event : {start, end}) {
            require_outside_of_capture(*event);
            if (!event->recorded || !event->has_timing)
                throw Error(CUDA_ERROR_INVALID_HANDLE, "the event was not recorded, or was created without timing");
            is_ready &= event->done == event->recorded;
        }
        *milliseconds =
            (end->time.tv_sec - start->time.tv_sec) * 1e3f + (end->time.tv_nsec - start->time.tv_nsec) * 1e-6f;
    });
    return status == CUDA_SUCCESS && !is_ready ? CUDA_ERROR_NOT_READY : status;
}
