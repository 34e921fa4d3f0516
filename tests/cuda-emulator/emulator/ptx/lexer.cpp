#include "lexer.h"

#include <ctype.h>
#include <stdlib.h>

#include <algorithm>

#include "../error.h"

namespace emulator::ptx {
namespace {

bool is_word(char c) { return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '%' || c == '.'; }

struct Lexer {
    std::string_view text;
    size_t at = 0;
    int line = 1;

    char peek(size_t ahead = 0) const { return at + ahead < text.size() ? text[at + ahead] : '\0'; }

    void skip_to(size_t position) {
        for (; at < position; at++) line += text[at] == '\n';
    }

    void skip_space() {
        while (at < text.size()) {
            if (isspace((unsigned char)peek())) {
                skip_to(at + 1);
            } else if (text.substr(at, 2) == "//") {
                skip_to(std::min(text.find('\n', at), text.size()));
            } else if (text.substr(at, 2) == "/*") {
                const size_t end = text.find("*/", at);
                if (end == text.npos)
                    throw Error(CUDA_ERROR_INVALID_PTX, format("PTX line %d: a comment has no end", line));
                skip_to(end + 2);
            } else {
                return;
            }
        }
    }

    Token string() {
        const size_t end = text.find('"', at + 1);
        if (end == text.npos) throw Error(CUDA_ERROR_INVALID_PTX, format("PTX line %d: a string has no end", line));
        Token token{Token::String, std::string(text.substr(at + 1, end - at - 1)), 0, line};
        skip_to(end + 1);
        return token;
    }

    // 12, 0x1F, 017, 12U, and the bits of a number: 0f3F800000, 0d3FF0000000000000
    Token number() {
        const char marker = peek() == '0' ? tolower(peek(1)) : '\0';
        const bool is_float = marker == 'f' || marker == 'd';
        const std::string digits(text.substr(at + (is_float ? 2 : 0), 24));
        char* end;
        const uint64_t value = strtoull(digits.c_str(), &end, is_float ? 16 : 0);
        Token token{marker == 'f' ? Token::Float32 : marker == 'd' ? Token::Float64 : Token::Integer, "", value, line};
        at += (end - digits.c_str()) + (is_float ? 2 : 0);
        if (peek() == 'U') at++;
        return token;
    }

    // "::" belongs to a word ("L1::no_allocate"); a single ":" ends a label.
    Token word() {
        const size_t start = at;
        while (is_word(peek()) || (peek() == ':' && peek(1) == ':' && is_word(peek(2)))) at += peek() == ':' ? 2 : 1;
        return {Token::Word, std::string(text.substr(start, at - start)), 0, line};
    }

    Token next() {
        skip_space();
        if (at == text.size()) return {Token::End, "", 0, line};
        if (peek() == '"') return string();
        if (isdigit((unsigned char)peek())) return number();
        if (is_word(peek())) return word();
        return {Token::Punctuation, std::string(1, text[at++]), 0, line};
    }
};

}  // namespace

std::vector<Token> tokens(std::string_view text) {
    Lexer lexer{text};
    std::vector<Token> result;
    result.reserve(text.size() / 5);  // what NVRTC writes is nearly that dense
    do result.push_back(lexer.next());
    while (result.back().kind != Token::End);
    return result;
}

}  // namespace emulator::ptx
