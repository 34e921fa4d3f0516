// An Alpaca formatter: the same records, byte for byte, as those of `alpaca-formatter`.

#include <stdlib.h>
#include <string.h>

#include "bindings/formatter.h"

typedef formatter_string_t string;
typedef exports_tunesmith_plugin_formatting_formatted_t formatted;

static string literal(const char *text) { return (string){(uint8_t *)text, strlen(text)}; }

// Memory ends at the host's cap: a trap says so better than a null pointer that is written to.
static void *allocate(size_t bytes) {
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory) abort();
    return memory;
}

// The parts one behind the other, in memory of their own.
static string concatenate(const string *parts, size_t n) {
    string whole = {0, 0};
    for (size_t i = 0; i < n; i++) whole.len += parts[i].len;
    uint8_t *end = whole.ptr = allocate(whole.len);
    for (size_t i = 0; i < n; i++) {
        if (parts[i].len) memcpy(end, parts[i].ptr, parts[i].len);
        end += parts[i].len;
    }
    return whole;
}

static string copy(string text) { return concatenate(&text, 1); }

// The length in UTF-8 of the white space character that starts here; 0 where none does.
static size_t white_space(const uint8_t *at, size_t len) {
    if (at[0] == ' ' || (at[0] >= '\t' && at[0] <= '\r')) return 1;
    if (len >= 2 && at[0] == 0xC2 && (at[1] == 0x85 || at[1] == 0xA0)) return 2;
    if (len < 3) return 0;
    uint32_t three = (uint32_t)at[0] << 16 | (uint32_t)at[1] << 8 | at[2];
    int is_one = three == 0xE19A80                              // U+1680
                 || (three >= 0xE28080 && three <= 0xE2808A)    // U+2000 to U+200A
                 || three == 0xE280A8 || three == 0xE280A9      // U+2028, U+2029
                 || three == 0xE280AF                           // U+202F
                 || three == 0xE2819F                           // U+205F
                 || three == 0xE38080;                          // U+3000
    return is_one ? 3 : 0;
}

static bool blank(string text) {
    for (size_t i = 0; i < text.len;) {
        size_t n = white_space(text.ptr + i, text.len - i);
        if (!n) return false;
        i += n;
    }
    return true;
}

enum { PROMPT_PARTS = 5 };

static void prompt_parts(string *parts, string instruction, string input) {
    parts[0] = literal("### Instruction:\n");
    parts[1] = instruction;
    parts[2] = literal(input.len ? "\n### Input:\n" : "");
    parts[3] = input;
    parts[4] = literal("\n### Response:\n");
}

static void format_instruction(const tunesmith_plugin_types_instruction_example_t *example, formatted *result) {
    if (blank(example->output)) {
        result->tag = EXPORTS_TUNESMITH_PLUGIN_FORMATTING_FORMATTED_SKIPPED;
        result->val.skipped = copy(literal("empty output"));
        return;
    }
    string parts[PROMPT_PARTS + 1];
    prompt_parts(parts, example->instruction, example->input);
    parts[PROMPT_PARTS] = example->output;
    exports_tunesmith_plugin_formatting_text_record_t *record = &result->val.ready.val.text;
    result->val.ready.tag = EXPORTS_TUNESMITH_PLUGIN_FORMATTING_TRAINING_RECORD_TEXT;
    record->text = concatenate(parts, PROMPT_PARTS + 1);
    record->response_start.is_some = true;
    record->response_start.val = record->text.len - example->output.len;
}

static void format_preference(const tunesmith_plugin_types_preference_pair_t *pair, formatted *result) {
    string parts[PROMPT_PARTS];
    prompt_parts(parts, pair->instruction, pair->input);
    exports_tunesmith_plugin_formatting_preference_record_t *record = &result->val.ready.val.preference;
    result->val.ready.tag = EXPORTS_TUNESMITH_PLUGIN_FORMATTING_TRAINING_RECORD_PREFERENCE;
    record->prompt = concatenate(parts, PROMPT_PARTS);
    record->chosen = copy(pair->chosen);
    record->rejected = copy(pair->rejected);
}

static void format_triplet(const tunesmith_plugin_types_triplet_t *triplet, formatted *result) {
    exports_tunesmith_plugin_formatting_triplet_record_t *record = &result->val.ready.val.triplet;
    result->val.ready.tag = EXPORTS_TUNESMITH_PLUGIN_FORMATTING_TRAINING_RECORD_TRIPLET;
    record->anchor = copy(triplet->anchor);
    record->positive = copy(triplet->positive);
    record->negative = copy(triplet->negative);
}

// True where `ret` is set, false where `err` is. The instance serves one call, so nothing is freed.
bool exports_tunesmith_plugin_formatting_format(exports_tunesmith_plugin_formatting_formatter_config_t *config,
                                                exports_tunesmith_plugin_formatting_list_example_t *examples,
                                                exports_tunesmith_plugin_formatting_list_formatted_t *ret,
                                                exports_tunesmith_plugin_formatting_plugin_error_t *err) {
    if (config->settings.len) {
        string parts[] = {literal("unknown setting `"), config->settings.ptr[0].f0,
                          literal("`; this plugin has no settings")};
        err->tag = TUNESMITH_PLUGIN_TYPES_PLUGIN_ERROR_CONFIGURATION;
        err->val.configuration = concatenate(parts, 3);
        return false;
    }
    ret->len = examples->len;
    ret->ptr = allocate(examples->len * sizeof *ret->ptr);
    for (size_t i = 0; i < examples->len; i++) {
        const tunesmith_plugin_types_example_t *example = &examples->ptr[i];
        formatted *result = &ret->ptr[i];
        result->tag = EXPORTS_TUNESMITH_PLUGIN_FORMATTING_FORMATTED_READY;
        switch (example->tag) {
        case TUNESMITH_PLUGIN_TYPES_EXAMPLE_INSTRUCTION:
            format_instruction(&example->val.instruction, result);
            break;
        case TUNESMITH_PLUGIN_TYPES_EXAMPLE_PREFERENCE:
            format_preference(&example->val.preference, result);
            break;
        default:
            format_triplet(&example->val.triplet, result);
        }
    }
    return true;
}
