#include "table.h"

namespace emulator {

const Build* find_instruction(std::string_view opcode) {
    static const Family all = [] {
        Family result;
        for (const Family* family :
             {&arithmetic_instructions(), &function_instructions(), &bit_instructions(), &compare_instructions(),
              &convert_instructions(), &memory_instructions(), &atomic_instructions(), &control_instructions(),
              &warp_instructions(), &matrix_instructions()})
            result.insert(family->begin(), family->end());
        return result;
    }();
    const auto found = all.find(opcode);
    return found == all.end() ? nullptr : &found->second;
}

}  // namespace emulator
