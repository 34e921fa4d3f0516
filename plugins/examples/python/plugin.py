"""An Alpaca formatter: the same records, byte for byte, as those of `alpaca-formatter`."""

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.formatting import (
    Formatted,
    Formatted_Ready,
    Formatted_Skipped,
    FormatterConfig,
    PreferenceRecord,
    TextRecord,
    TrainingRecord_Preference,
    TrainingRecord_Text,
    TrainingRecord_Triplet,
    TripletRecord,
)
from wit_world.imports.types import (
    Example,
    Example_Instruction,
    Example_Preference,
    Example_Triplet,
    PluginError_Configuration,
)

# Unicode's `White_Space`. `str.strip` alone would also take U+001C to U+001F for it.
WHITE_SPACE = "".join(
    map(chr, [*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000])
)


class Formatting(exports.Formatting):
    def format(self, config: FormatterConfig, examples: list[Example]) -> list[Formatted]:
        for key, _ in config.settings:
            raise Err(PluginError_Configuration(f"unknown setting `{key}`; this plugin has no settings"))
        return [format_one(example) for example in examples]


def format_one(example: Example) -> Formatted:
    match example:
        case Example_Instruction(e) if not e.output.strip(WHITE_SPACE):
            return Formatted_Skipped("empty output")
        case Example_Instruction(e):
            text = prompt(e.instruction, e.input)
            start = len(text.encode())  # In bytes: the host does not count characters.
            return Formatted_Ready(TrainingRecord_Text(TextRecord(text + e.output, start)))
        case Example_Preference(e):
            record = PreferenceRecord(prompt(e.instruction, e.input), e.chosen, e.rejected)
            return Formatted_Ready(TrainingRecord_Preference(record))
        case Example_Triplet(e):
            return Formatted_Ready(TrainingRecord_Triplet(TripletRecord(e.anchor, e.positive, e.negative)))


def prompt(instruction: str, input: str) -> str:
    middle = f"### Input:\n{input}\n" if input else ""
    return f"### Instruction:\n{instruction}\n{middle}### Response:\n"
