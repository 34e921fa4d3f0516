// Tokens to a Module: recursive descent, one function a construct of the grammar (PTX ISA, chapters 4 and 5).
#include <string.h>

#include <algorithm>

#include "../error.h"
#include "lexer.h"
#include "module.h"

namespace emulator::ptx {
namespace {

std::vector<std::string> split(const std::string& text, char separator) {
    std::vector<std::string> parts;
    size_t start = 0;
    for (size_t end; (end = text.find(separator, start)) != text.npos; start = end + 1)
        parts.push_back(text.substr(start, end - start));
    parts.push_back(text.substr(start));
    return parts;
}

Space parse_space(const std::string& directive) {
    if (directive == ".global") return Space::Global;
    if (directive == ".shared") return Space::Shared;
    if (directive == ".local") return Space::Local;
    if (directive == ".param") return Space::Param;
    if (directive == ".const") return Space::Const;
    return Space::Generic;
}

// The name of what is declared in a nested `{ }` is made unique, since each call sequence declares another `param0`.
class Scopes {
public:
    void open() { scopes.push_back({++opened, {}}); }
    void close() { scopes.pop_back(); }
    size_t depth() const { return scopes.size(); }

    std::string declare(const std::string& name) {
        if (scopes.size() == 1) return name;
        return scopes.back().names[name] = name + "@" + std::to_string(scopes.back().id);
    }

    std::string resolve(const std::string& name) const {
        for (auto scope = scopes.rbegin(); scope != scopes.rend(); ++scope)
            if (auto found = scope->names.find(name); found != scope->names.end()) return found->second;
        return name;
    }

private:
    struct Scope {
        int id;
        std::map<std::string, std::string> names;
    };
    std::vector<Scope> scopes;
    int opened = 0;
};

class Parser {
public:
    explicit Parser(std::string_view text) : input(tokens(text)) {}

    Module run() {
        while (token().kind != Token::End) top_level();
        if (!module.version || !module.target) fail("`.version` or `.target` is missing: is this PTX?");
        return std::move(module);
    }

private:
    std::vector<Token> input;
    size_t at = 0;
    Module module;

    // of the function that is being parsed
    Function* function = nullptr;
    Scopes scopes;
    Origin origin;

    const Token& token() const { return input[at]; }

    [[noreturn]] void fail(const std::string& what) const {
        throw Error(CUDA_ERROR_INVALID_PTX, format("PTX line %d: %s", token().line, what.c_str()));
    }

    bool is(const char* text) const {
        return (token().kind == Token::Word || token().kind == Token::Punctuation) && token().text == text;
    }
    bool accept(const char* text) { return is(text) && (at++, true); }
    void expect(const char* text) {
        if (!accept(text)) fail(format("expected `%s`, found `%s`", text, token().text.c_str()));
    }
    std::string word() {
        if (token().kind != Token::Word) fail(format("expected a name, found `%s`", token().text.c_str()));
        return input[at++].text;
    }
    uint64_t integer() {
        if (token().kind != Token::Integer) fail("expected a number");
        return input[at++].value;
    }
    void skip_line() {
        for (const int line = token().line; token().kind != Token::End && token().line == line;) at++;
    }
    void skip_past(const char* text) {
        while (!accept(text)) {
            if (token().kind == Token::End) fail(format("`%s` is missing", text));
            at++;
        }
    }

    // ---- the file

    void top_level() {
        if (accept(".version")) {
            // "8.7" is lexed as a number and a word.
            module.version = (int)integer() * 10;
            module.version += atoi(word().c_str() + 1);
        } else if (accept(".target")) {
            const std::string name = word();
            if (name.compare(0, 3, "sm_")) fail(format("unknown target `%s`", name.c_str()));
            module.target = atoi(name.c_str() + 3);
            while (accept(",")) word();
        } else if (accept(".address_size")) {
            if (integer() != 64) fail("only 64-bit addresses are supported");
        } else if (accept(".file")) {
            const int key = (int)integer();
            const std::string path = input[at].text;
            module.files[key] = path.substr(path.rfind('/') + 1);
            skip_line();
        } else if (accept(".section")) {
            skip_past("}");
        } else if (accept(".pragma")) {
            skip_past(";");
        } else {
            declaration();
        }
    }

    void declaration() {
        bool external = false;
        while (is(".visible") || is(".extern") || is(".weak") || is(".common")) external |= word() == ".extern";
        if (accept(".entry")) return entry();
        if (accept(".func")) return device_function();
        if (parse_space(token().text) == Space::Generic) fail(format("unknown directive `%s`", token().text.c_str()));
        module.variables.push_back(variable(";"));
        module.variables.back().external |= external;
        expect(";");
    }

    void entry() {
        Function kernel;
        kernel.name = word();
        kernel.is_kernel = true;
        if (accept("(")) kernel.parameters = variables_in_parentheses();
        attributes(kernel);
        body(kernel);
    }

    void device_function() {
        Function declared;
        if (accept("(")) declared.results = variables_in_parentheses();
        declared.name = word();
        if (accept("(")) declared.parameters = variables_in_parentheses();
        attributes(declared);
        if (accept(";")) {
            module.functions.insert({declared.name, declared});
        } else {
            body(declared);
        }
    }

    void attributes(Function& result) {
        while (!is("{") && !is(";")) {
            if (accept(".maxntid")) {
                result.max_threads = product();
            } else if (accept(".reqntid")) {
                result.required_threads = product();
            } else if (accept(".minnctapersm") || accept(".maxnreg")) {
                integer();
            } else if (!accept(".noreturn")) {
                fail(format("unknown function attribute `%s`", token().text.c_str()));
            }
        }
    }

    unsigned product() {
        unsigned result = 1;
        do result *= (unsigned)integer();
        while (accept(","));
        return result;
    }

    // ---- variables

    std::vector<Variable> variables_in_parentheses() {
        std::vector<Variable> result;
        while (!accept(")")) {
            result.push_back(variable(","));
            accept(",");
        }
        return result;
    }

    // `.shared .align 16 .b8 name[4][128] = {...}`
    Variable variable(const char* end) {
        Variable result;
        size_t elements = 1;
        while (token().text[0] == '.') {
            const std::string directive = word();
            if (directive == ".align") {
                result.alignment = integer();
            } else if (directive == ".v2" || directive == ".v4") {
                elements = directive[2] - '0';
            } else if (directive == ".ptr") {
                // `.ptr .global .align 4` says what the parameter points to
                while (token().text[0] == '.')
                    if (word() == ".align") integer();
            } else if (Type type = parse_type(directive.substr(1)); type != Type::None) {
                result.type = type;
            } else if (Space space = parse_space(directive); space != Space::Generic) {
                result.space = space;
            } else {
                fail(format("unknown directive `%s` of a variable", directive.c_str()));
            }
        }
        result.name = word();
        while (accept("[")) {
            if (accept("]")) {
                result.external = true;
            } else {
                elements *= integer();
                expect("]");
            }
        }
        if (bytes(result.type) == 0) fail(format("variable `%s` has no type of a size", result.name.c_str()));
        result.bytes = result.external ? 0 : elements * bytes(result.type);
        result.alignment = std::max(result.alignment, bytes(result.type));
        if (accept("=")) initial_value(result);
        if (!is(end) && !is(")")) fail(format("unexpected `%s` behind a variable", token().text.c_str()));
        return result;
    }

    void initial_value(Variable& result) {
        if (accept("{")) {
            while (!accept("}")) {
                initial_value(result);
                accept(",");
            }
            return;
        }
        const size_t offset = result.initial.size();
        uint64_t value = 0;
        if (token().kind == Token::Word) {
            const bool generic = accept("generic");
            if (generic) expect("(");
            const std::string symbol = word();
            if (generic) expect(")");
            result.relocations.push_back({offset, symbol, accept("+") ? integer() : 0});
        } else {
            const bool negative = accept("-");
            value = negative ? -input[at++].value : input[at++].value;
        }
        result.initial.resize(offset + bytes(result.type));
        memcpy(&result.initial[offset], &value, bytes(result.type));
    }

    // ---- function bodies

    void body(Function& result) {
        function = &result;
        scopes = {};
        origin = {};
        result.has_body = true;
        expect("{");
        scopes.open();
        while (scopes.depth() > 0) {
            if (accept("{")) {
                scopes.open();
            } else if (accept("}")) {
                scopes.close();
            } else {
                line_of_body();
            }
        }
        module.functions[result.name] = std::move(result);
    }

    void line_of_body() {
        if (accept(".reg")) {
            registers();
        } else if (accept(".loc")) {
            origin.file = (int)integer();
            origin.line = (int)integer();
            skip_line();
        } else if (accept(".pragma")) {
            skip_past(";");
        } else if (parse_space(token().text) != Space::Generic) {
            function->variables.push_back(variable(";"));
            Variable& declared = function->variables.back();
            declared.name = scopes.declare(declared.name);
            expect(";");
        } else if (token().kind == Token::Word && input[at + 1].text == ":") {
            label();
        } else {
            statement();
        }
    }

    // `.reg .b32 %r<59>;` or `.reg .pred p, q;`
    void registers() {
        const Type type = parse_type(word().substr(1));
        if (type == Type::None) fail("a register has no type");
        do {
            const std::string name = word();
            if (accept("<")) {
                for (uint64_t i = 0, count = integer(); i < count; i++)
                    function->registers[scopes.declare(name + std::to_string(i))] = type;
                expect(">");
            } else {
                function->registers[scopes.declare(name)] = type;
            }
        } while (accept(","));
        expect(";");
    }

    void label() {
        const std::string name = word();
        expect(":");
        if (accept(".branchtargets")) {
            do function->branch_targets[name].push_back(word());
            while (accept(","));
            expect(";");
        } else if (is(".callprototype")) {
            fail("calls through function pointers are not supported");
        } else if (!function->labels.insert({name, function->body.size()}).second) {
            fail(format("label `%s` is defined twice", name.c_str()));
        }
    }

    void statement() {
        Statement result;
        origin.ptx_line = token().line;
        result.origin = origin;
        if (accept("@")) {
            result.guard_negated = accept("!");
            result.guard = scopes.resolve(word());
        }
        result.opcode = split(word(), '.');
        while (!accept(";")) {
            result.operands.push_back(operand());
            if (!is(";")) expect(",");
        }
        function->body.push_back(std::move(result));
    }

    // ---- operands

    Operand operand() {
        Operand first = single_operand();
        if (!accept("|")) return first;
        Operand pair;
        pair.kind = Operand::Pair;
        pair.elements = {first, single_operand()};
        return pair;
    }

    Operand single_operand() {
        if (accept("{")) return list("}");
        if (accept("(")) return list(")");
        if (accept("[")) return address();
        if (accept("!")) {
            Operand result = named_operand();
            result.negated = true;
            return result;
        }
        if (token().kind == Token::Word) return named_operand();
        return immediate();
    }

    Operand list(const char* end) {
        Operand result;
        result.kind = Operand::List;
        while (!accept(end)) {
            result.elements.push_back(single_operand());
            accept(",");
        }
        return result;
    }

    Operand immediate() {
        Operand result;
        result.kind = Operand::Immediate;
        const bool negative = accept("-");
        const Token& number = input[at++];
        result.value = negative ? -number.value : number.value;
        switch (number.kind) {
            case Token::Integer: result.literal = Type::S64; break;
            case Token::Float32: result.literal = Type::F32; break;
            case Token::Float64: result.literal = Type::F64; break;
            default: at--, fail(format("unexpected `%s`", number.text.c_str()));
        }
        return result;
    }

    Operand named_operand() {
        Operand result;
        result.name = scopes.resolve(word());
        if (result.name == "_") return result;
        if (result.name == "WARP_SZ") {
            result.kind = Operand::Immediate;
            result.value = 32;
            result.literal = Type::S64;
            return result;
        }
        const bool is_register = result.name[0] == '%' || function->registers.count(result.name);
        result.kind = is_register ? Operand::Register : Operand::Symbol;
        if (result.kind == Operand::Symbol && accept("+")) result.value = integer();
        return result;
    }

    // [%rd1+-4], [symbol+8], [%r1], [16]
    Operand address() {
        Operand result;
        result.kind = Operand::Address;
        if (token().kind == Token::Word) result.name = scopes.resolve(word());
        if (!result.name.empty() && !is("]") && !is("-")) expect("+");
        if (!is("]")) {
            const bool negative = accept("-");
            result.value = negative ? -integer() : integer();
        }
        expect("]");
        return result;
    }
};

}  // namespace

Module parse(std::string_view text) { return Parser(text).run(); }

}  // namespace emulator::ptx
