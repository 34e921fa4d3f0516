#include "config.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <map>
#include <vector>

#include "error.h"

namespace emulator {
namespace {

constexpr char PREFIX[] = "CUDA_EMULATOR_";

std::vector<std::string> parts(const std::string& text, char separator) {
    std::vector<std::string> result{""};
    for (char c : text) {
        if (c == separator)
            result.emplace_back();
        else
            result.back() += c;
    }
    return result;
}

[[noreturn]] void refuse(const std::string& name, const std::string& value, const char* expected) {
    throw Error(CUDA_ERROR_INVALID_VALUE,
                format("option %s%s is `%s`: it must be %s", PREFIX, name.c_str(), value.c_str(), expected));
}

uint64_t number(const std::string& name, const std::string& value, uint64_t least, uint64_t most = UINT64_MAX) {
    char* end;
    const uint64_t result = strtoull(value.c_str(), &end, 10);
    if (value.empty() || *end || value[0] == '-' || result < least || result > most)
        refuse(name, value, format("a number from %lu to %lu", least, most).c_str());
    return result;
}

bool choice(const std::string& name, const std::string& value, const char* no, const char* yes) {
    if (value != no && value != yes) refuse(name, value, format("`%s` or `%s`", no, yes).c_str());
    return value == yes;
}

using Set = void (*)(Config&, const std::string& name, const std::string& value);

const std::map<std::string, Set> OPTIONS = {
    {"CHECK",
     [](Config& config, const std::string& name, const std::string& value) {
         config.check_races = config.check_initialised = false;
         for (const std::string& check : parts(value, ',')) {
             if (check == "all")
                 config.check_races = config.check_initialised = true;
             else if (check == "races")
                 config.check_races = true;
             else if (check == "initialised")
                 config.check_initialised = true;
             else if (check != "memory" && check != "")  // which is always on
                 refuse(name, value,
                        "`all`, or of `memory`, `races`, `initialised` those that are wanted, with commas");
         }
     }},
    {"EXECUTE", [](Config& config, auto& name, auto& value) { config.execute = choice(name, value, "0", "1"); }},
    {"ORDER",
     [](Config& config, const std::string& name, const std::string& value) {
         if (value == "natural")
             config.order = Config::Order::Natural;
         else if (value == "reverse")
             config.order = Config::Order::Reverse;
         else if (value.compare(0, 7, "random:") == 0)
             config.order = Config::Order::Random, config.seed = number(name, value.substr(7), 0);
         else
             refuse(name, value, "`natural`, `reverse` or `random:SEED`");
     }},
    {"STREAMS",
     [](Config& config, auto& name, auto& value) { config.lazy_streams = choice(name, value, "eager", "lazy"); }},
    {"THREADS", [](Config& config, auto& name, auto& value) { config.threads = number(name, value, 1, 256); }},
    {"DEVICES", [](Config& config, auto& name, auto& value) { config.devices = number(name, value, 1, 16); }},
    {"COMPUTE_CAPABILITY",
     [](Config& config, auto& name, auto& value) { config.compute_capability = number(name, value, 50, 129); }},
    {"MEMORY",
     [](Config& config, auto& name, auto& value) { config.memory = number(name, value, 1, size_t(1) << 42); }},
    {"DRIVER_VERSION",
     [](Config& config, auto& name, auto& value) { config.driver_version = number(name, value, 11000, 99990); }},
    {"BUDGET", [](Config& config, auto& name, auto& value) { config.budget = number(name, value, 1); }},
    {"FAIL_LAUNCH",
     [](Config& config, const std::string& name, const std::string& value) {
         const auto part = parts(value, ':');
         if (part.size() > 2) refuse(name, value, "`N` or `N:CODE`");
         config.fail_launch = number(name, part[0], 1);
         config.fail_code = CUDA_ERROR_LAUNCH_FAILED;
         if (part.size() == 2) config.fail_code = number(name, part[1], 1, 999);
     }},
    {"OVERRIDE", [](Config& config, auto&, auto& value) { config.override_directory = value; }},
    {"SKIP_LAUNCH", [](Config& config, auto&, auto& value) { config.skip_kernel = value; }},
    {"SWAP_ARGS",
     [](Config& config, const std::string& name, const std::string& value) {
         const auto part = parts(value, ':');
         if (part.size() != 3) refuse(name, value, "`KERNEL:I:J`");
         config.swap = {part[0], number(name, part[1], 0), number(name, part[2], 0)};
     }},
};

Config& state() {
    static Config config = [] {
        Config result;
        for (char** variable = environ; *variable; variable++) {
            if (strncmp(*variable, PREFIX, strlen(PREFIX))) continue;
            const std::string text = *variable + strlen(PREFIX);
            const size_t equals = text.find('=');
            const std::string name = text.substr(0, equals);
            const auto option = OPTIONS.find(name);
            if (option == OPTIONS.end())
                throw Error(CUDA_ERROR_INVALID_VALUE, format("there is no option %s%s", PREFIX, name.c_str()));
            option->second(result, name, text.substr(equals + 1));
        }
        return result;
    }();
    return config;
}

}  // namespace

const Config& config() { return state(); }

void set_option(const std::string& name, const std::string& value) {
    const auto option = OPTIONS.find(name);
    if (option == OPTIONS.end())
        throw Error(CUDA_ERROR_INVALID_VALUE, format("there is no option %s%s", PREFIX, name.c_str()));
    option->second(state(), name, value);
}

}  // namespace emulator
