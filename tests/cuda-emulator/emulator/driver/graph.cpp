// Graphs: what a capture recorded, to be replayed.
#include <algorithm>
#include <set>

#include "../counters.h"
#include "stream.h"

namespace emulator {
namespace {

// A graph that is ready to run: its nodes in an order that their dependencies allow.
struct ExecutableGraph {
    std::vector<OperationPtr> operations;
};

std::mutex mutex;
std::set<void*> graphs;  // both kinds, by handle

void require(const void* handle) {
    std::lock_guard lock(mutex);
    if (!graphs.contains((void*)handle)) throw Error(CUDA_ERROR_INVALID_HANDLE, "there is no such graph");
}

template <class T>
void destroy(T* handle) {
    require(handle);
    std::lock_guard lock(mutex);
    graphs.erase(handle);
    delete handle;
}

// As recorded, or with lazy streams the last that can run first: then a missing wait between streams shows.
std::vector<OperationPtr> ordered(const Graph& graph) {
    std::vector<OperationPtr> result;
    if (!config().lazy_streams) {
        for (const Graph::Node& node : graph.nodes) result.push_back(node.operation);
        return result;
    }
    std::vector<bool> done(graph.nodes.size());
    while (result.size() < graph.nodes.size()) {
        for (size_t i = graph.nodes.size(); i-- > 0;) {
            const auto& after = graph.nodes[i].after;
            if (done[i] || !std::all_of(after.begin(), after.end(), [&](size_t before) { return done[before]; }))
                continue;
            done[i] = true;
            result.push_back(graph.nodes[i].operation);
            break;
        }
    }
    return result;
}

class GraphLaunch : public Operation {
public:
    explicit GraphLaunch(std::vector<OperationPtr> operations) : operations(std::move(operations)) {}
    void run(bool) const override {
        counters::count_graph_launch();
        for (const OperationPtr& operation : operations) execute(*operation, true);
    }

private:
    const std::vector<OperationPtr> operations;
};

ExecutableGraph* instantiate(const Graph* graph, unsigned long long flags) {
    constexpr unsigned AUTO_FREE = 1, DEVICE_LAUNCH = 4, KNOWN = 15;
    require(graph);
    if (flags & ~KNOWN || (flags & DEVICE_LAUNCH && flags & AUTO_FREE))
        throw Error(CUDA_ERROR_INVALID_VALUE, "unknown graph flags");
    if (flags & DEVICE_LAUNCH)
        throw Error(CUDA_ERROR_NOT_SUPPORTED, "launches of graphs by the device are not emulated");
    auto* const executable = new ExecutableGraph{ordered(*graph)};
    std::lock_guard lock(mutex);
    graphs.insert(executable);
    return executable;
}

}  // namespace

void register_graph(Graph* graph) {
    std::lock_guard lock(mutex);
    graphs.insert(graph);
}

}  // namespace emulator

using namespace emulator;

CUDA_API CUresult cuGraphGetNodes(Graph* graph, void** nodes, size_t* count) {
    return call(Needs::Context, [&] {
        require(graph);
        if (nodes) throw Error(CUDA_ERROR_NOT_SUPPORTED, "the nodes of a graph have no handles here");
        *count = graph->nodes.size();
    });
}

CUDA_API CUresult cuGraphInstantiateWithFlags(ExecutableGraph** executable, Graph* graph, unsigned long long flags) {
    return call(Needs::Context, [&] { *executable = instantiate(graph, flags); });
}

CUDA_API CUresult cuGraphUpload(ExecutableGraph* executable, void* stream) {
    return call(Needs::Context, [&] {
        require(executable);
        stream_of(stream);
    });
}

CUDA_API CUresult cuGraphLaunch(ExecutableGraph* executable, void* stream) {
    return call(Needs::Context, [&] {
        require(executable);
        submit(stream, std::make_shared<GraphLaunch>(executable->operations));
    });
}

CUDA_API CUresult cuGraphExecDestroy(ExecutableGraph* executable) {
    return call(Needs::Context, [&] { destroy(executable); });
}

CUDA_API CUresult cuGraphDestroy(Graph* graph) {
    return call(Needs::Context, [&] { destroy(graph); });
}
