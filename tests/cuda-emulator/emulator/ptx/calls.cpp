// Device functions are put in place of their calls, with names of their own for each call. A callee's parameters become
// the caller's variables that hold the arguments, so that nothing is copied.
#include <algorithm>

#include "../error.h"
#include "module.h"

namespace emulator::ptx {
namespace {

// Functions of the driver, which stay calls.
bool is_builtin(const std::string& name) { return name == "vprintf" || name == "__assertfail"; }

// `call (results), name, (arguments)`, where both lists may be absent
const Operand& callee_of(const Statement& statement) {
    for (const Operand& operand : statement.operands)
        if (operand.kind != Operand::List) return operand;
    throw Error(CUDA_ERROR_INVALID_PTX, format("PTX line %d: a call names no function", statement.origin.ptx_line));
}

bool is_call_of_function(const Statement& statement) {
    return statement.opcode[0] == "call" && !is_builtin(callee_of(statement).name);
}

class Inliner {
public:
    Inliner(const Module& module, const Function& kernel) : result(kernel), module(module) {
        result.registers.clear();
        result.variables.clear();
        result.body.clear();
        result.labels.clear();
        result.branch_targets.clear();
        expand(kernel, "", {});
    }

    Function result;

private:
    const Module& module;
    std::vector<std::string> callers;
    int calls = 0;

    using Names = std::map<std::string, std::string>;

    void expand(const Function& function, const std::string& prefix, Names names) {
        if (std::find(callers.begin(), callers.end(), function.name) != callers.end())
            throw Error(CUDA_ERROR_INVALID_PTX,
                        format("function `%s` calls itself, which is not supported", function.name.c_str()));
        callers.push_back(function.name);

        for (const auto& [name, type] : function.registers) result.registers[names[name] = prefix + name] = type;
        for (Variable variable : function.variables) {
            variable.name = names[variable.name] = prefix + variable.name;
            result.variables.push_back(std::move(variable));
        }
        for (const auto& label : function.labels) names[label.first] = prefix + label.first;
        for (const auto& [label, targets] : function.branch_targets) {
            std::vector<std::string>& renamed = result.branch_targets[names[label] = prefix + label];
            for (const std::string& target : targets) renamed.push_back(prefix + target);
        }

        const bool is_callee = !prefix.empty();
        std::vector<size_t> starts;  // of each statement in `result.body`
        for (Statement statement : function.body) {
            starts.push_back(result.body.size());
            rename(statement, names);
            if (is_call_of_function(statement)) {
                call(statement);
            } else if (statement.opcode[0] == "ret" && is_callee) {
                jump(statement, prefix + "return");
            } else {
                result.body.push_back(std::move(statement));
            }
        }
        starts.push_back(result.body.size());
        for (const auto& [label, statement] : function.labels) result.labels[prefix + label] = starts[statement];
        if (is_callee) result.labels[prefix + "return"] = result.body.size();
        callers.pop_back();
    }

    static void rename(Operand& operand, const Names& names) {
        if (auto found = names.find(operand.name); found != names.end()) operand.name = found->second;
        for (Operand& element : operand.elements) rename(element, names);
    }

    static void rename(Statement& statement, const Names& names) {
        if (auto found = names.find(statement.guard); found != names.end()) statement.guard = found->second;
        for (Operand& operand : statement.operands) rename(operand, names);
    }

    void call(const Statement& statement) {
        const auto fail = [&](const std::string& what) {
            throw Error(CUDA_ERROR_INVALID_PTX, format("PTX line %d: %s", statement.origin.ptx_line, what.c_str()));
        };
        const Operand& callee = callee_of(statement);
        const auto found = module.functions.find(callee.name);
        if (found == module.functions.end() || !found->second.has_body)
            fail(format("call of `%s`, which is no function of this module", callee.name.c_str()));
        const Function& function = found->second;

        Names names;
        const auto bind = [&](const std::vector<Variable>& formal, const std::vector<Operand>& actual) {
            if (formal.size() != actual.size())
                fail(format("call of `%s` with a wrong number of arguments", callee.name.c_str()));
            for (size_t i = 0; i < formal.size(); i++) {
                if (actual[i].kind != Operand::Symbol) fail("an argument that is no variable is not supported");
                names[formal[i].name] = actual[i].name;
            }
        };
        const std::vector<Operand> none;
        const bool has_results = statement.operands.front().kind == Operand::List;
        const bool has_arguments = statement.operands.back().kind == Operand::List && statement.operands.size() > 1;
        bind(function.results, has_results ? statement.operands.front().elements : none);
        bind(function.parameters, has_arguments ? statement.operands.back().elements : none);

        const std::string prefix = format("%s#%d/", callee.name.c_str(), ++calls);
        if (!statement.guard.empty()) {
            Statement skip = statement;
            skip.guard_negated = !skip.guard_negated;
            jump(skip, prefix + "return");
        }
        expand(function, prefix, std::move(names));
    }

    void jump(const Statement& instead_of, const std::string& label) {
        Statement statement = instead_of;
        statement.opcode = {"bra"};
        statement.operands.resize(1);
        statement.operands[0] = {};
        statement.operands[0].kind = Operand::Symbol;
        statement.operands[0].name = label;
        result.body.push_back(std::move(statement));
    }
};

}  // namespace

void inline_calls(Function& kernel, const Module& module) {
    if (std::any_of(kernel.body.begin(), kernel.body.end(), is_call_of_function))
        kernel = Inliner(module, kernel).result;
}

}  // namespace emulator::ptx
