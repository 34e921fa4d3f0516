// PTX text as tokens.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace emulator::ptx {

struct Token {
    enum Kind { Word, Integer, Float32, Float64, String, Punctuation, End };
    Kind kind;
    std::string text;    // of a word, a string or one punctuation character
    uint64_t value = 0;  // the bits of a number
    int line;
};

// Comments and white space are gone. A word is a name, an opcode with all that follows its dots, or a directive
// (".reg").
std::vector<Token> tokens(std::string_view text);

}  // namespace emulator::ptx
